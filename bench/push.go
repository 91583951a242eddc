package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/events"
)

// pushSide is a server of sockets and its clients, each in a process of its own.
type pushSide struct {
	kind    string
	server  *dialog
	clients *dialog
	addr    string
}

func startSide(ctx context.Context, w *world, request serverStart) (_ *pushSide, err error) {
	s := &pushSide{kind: request.Kind}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if s.server, err = startDialog(ctx, pushServerCommand); err != nil {
		return nil, err
	}
	if s.clients, err = startDialog(ctx, pushClientsCommand); err != nil {
		return nil, err
	}
	request.NATS = w.nats.URL("api")
	answer, err := s.ask(serverQuestion{Start: &request})
	s.addr = answer.Addr
	return s, err
}

func (s *pushSide) ask(question serverQuestion) (answer serverAnswer, err error) {
	return answer, s.server.ask(question, &answer)
}

// stop ends the clients first: what a server does at its end is nobody's event.
func (s *pushSide) stop() error {
	var errs []error
	for _, process := range []*dialog{s.clients, s.server} {
		if process != nil {
			errs = append(errs, process.end())
		}
	}
	return errors.Join(errs...)
}

// withSides gives do servers, each with a process for its clients, and a world that they share.
func (b *bench) withSides(ctx context.Context, do func(*world, []*pushSide) error, requests ...serverStart) error {
	return b.inWorld(ctx, func(w *world) error {
		var sides []*pushSide
		err := func() error {
			for _, request := range requests {
				side, err := startSide(ctx, w, request)
				if err != nil {
					return err
				}
				sides = append(sides, side)
			}
			return do(w, sides)
		}()
		for _, side := range sides {
			err = errors.Join(err, side.stop())
		}
		return err
	})
}

// open connects the clients.
func (s *pushSide) open(clients []socketClient, atOnce, room int) (answer clientsAnswer, err error) {
	request := openSockets{Addr: s.addr, AtOnce: atOnce, Room: room, Of: clients}
	if s.kind == centrifugeServer {
		request.Hello = centrifugeHello
	}
	return answer, s.clients.ask(clientsQuestion{Open: &request}, &answer)
}

// leave hangs up.
func (s *pushSide) leave() error {
	return s.clients.ask(clientsQuestion{Close: true}, new(clientsAnswer))
}

func (s *pushSide) gather(request gather) (answer clientsAnswer, err error) {
	return answer, s.clients.ask(clientsQuestion{Gather: &request}, &answer)
}

// count waits until the hub has so many sockets.
func (s *pushSide) count(ctx context.Context, sockets int) (answer serverAnswer, err error) {
	err = until(ctx, patience, func(context.Context) (bool, error) {
		answer, err = s.ask(serverQuestion{Count: true})
		return answer.Open == sockets, err
	})
	if err != nil {
		return answer, fmt.Errorf("the hub has %d sockets, not %d: %w", answer.Open, sockets, err)
	}
	return answer, nil
}

// openAtOnce is how many connections are opened at a time where opening is not what is measured.
const openAtOnce = 32

// members are n clients of the workspace, each a user of their own.
func members(workspace string, n int) []socketClient {
	clients := make([]socketClient, n)
	for i := range clients {
		clients[i] = socketClient{Path: subscriberPath(events.NewID(), workspace), Group: workspace}
	}
	return clients
}

// edit is what goes to a workspace's members most: someone saved the document.
func edit(workspace string, version int64) events.Event {
	return events.New(meta(events.NewID()), "", events.WorkspaceDataUpdated{
		WorkspaceID: workspace, Version: version, Changed: []string{"/board/columns", "/title"}, Bytes: 20_000,
	})
}

// publish stores the event and gives the moment before.
func (w *world) publish(ctx context.Context, ev events.Event) (began int64, err error) {
	body, err := events.Encode(ev)
	if err != nil {
		return 0, err
	}
	began = time.Now().UnixNano()
	msg := &nats.Msg{Subject: ev.NATSSubject(), Data: body}
	if _, err := w.js.PublishMsg(ctx, msg, jetstream.WithMsgID(ev.ID)); err != nil {
		return 0, fmt.Errorf("publish event %s: %w", ev.ID, err)
	}
	return began, nil
}

// announce tells all clients of one event, over NATS or by the server itself.
func (s *pushSide) announce(ctx context.Context, w *world, ev events.Event) (began int64, err error) {
	if s.kind == hubServer {
		return w.publish(ctx, ev)
	}
	// The hub tells nobody who acted from where.
	ev.IP, ev.UserAgent = "", ""
	body, err := events.Encode(ev)
	if err != nil {
		return 0, err
	}
	answer, err := s.ask(serverQuestion{Send: envelopeOf(body)})
	return answer.Began, err
}

// fanOut takes the time from the beginning until the last of the workspace's clients has the event.
func (s *pushSide) fanOut(ctx context.Context, w *world, workspace string, version int64) (time.Duration, error) {
	ev := edit(workspace, version)
	began, err := s.announce(ctx, w, ev)
	if err != nil {
		return 0, err
	}
	answer, err := s.gather(gather{Groups: map[string][]string{workspace: {ev.ID}}})
	return time.Duration(answer.Last - began), err
}

// pushFanout has the clients of all three servers connected at once and tells them in turns, so that what else the machine
// does meets all of them.
func pushFanout(ctx context.Context, b *bench) ([]sample, error) {
	sockets, rounds := b.amount(5000, 100), b.amount(60, 3)
	const warm = 5 // pools fill and stacks grow
	took := make(map[string][]time.Duration)
	err := b.withSides(ctx, func(w *world, sides []*pushSide) error {
		workspace := events.NewID()
		for _, side := range sides {
			if _, err := side.open(members(workspace, sockets), openAtOnce, 1); err != nil {
				return err
			}
		}
		// The last round shows that nothing more came of the one before.
		for round := range warm + rounds + 1 {
			for i := range sides {
				side := sides[(b.run+round+i)%len(sides)]
				d, err := side.fanOut(ctx, w, workspace, int64(round+1))
				if err != nil {
					return fmt.Errorf("%s: %w", side.kind, err)
				}
				if round >= warm && round < warm+rounds {
					took[side.kind] = append(took[side.kind], d)
				}
			}
		}
		return nil
	}, serverStart{Kind: hubServer}, serverStart{Kind: bareServer}, serverStart{Kind: centrifugeServer})
	if err != nil {
		return nil, err
	}
	ms := func(kind string) float64 { return median(inMilliseconds(took[kind])) }
	about := line{Case: fmt.Sprintf("push: one event → the last of %d sockets", sockets), Ours: "hub", Unit: milliseconds}
	loop, engine := about, about
	loop.Baseline, loop.Target = "gorilla, bare loop", target{Ratio: 0.8}
	engine.Baseline = "Centrifuge"
	return []sample{
		{line: loop, ours: ms(hubServer), baseline: ms(bareServer)},
		{line: engine, ours: ms(hubServer), baseline: ms(centrifugeServer)},
	}, nil
}

// socketMemory is what one socket takes, in bytes.
type socketMemory struct{ resident, live float64 }

// pushMemory takes by how much a server grows with idle sockets that have had one event.
func pushMemory(ctx context.Context, b *bench) ([]sample, error) {
	sockets := b.amount(5000, 100)
	var ours, bare, engine socketMemory
	err := b.inTurns(
		func() (err error) { ours, err = b.memoryPerSocket(ctx, hubServer, sockets); return err },
		func() (err error) { bare, err = b.memoryPerSocket(ctx, bareServer, sockets); return err },
		func() (err error) { engine, err = b.memoryPerSocket(ctx, centrifugeServer, sockets); return err },
	)
	if err != nil {
		return nil, err
	}
	lines := func(about, baseline string, atMost, ours, theirs float64) sample {
		return sample{
			line: line{
				Case: fmt.Sprintf("push: %s of an idle socket, %d of them", about, sockets), Ours: "hub", Baseline: baseline,
				Unit: kibibytes, Target: target{AtMost: atMost},
			},
			ours: ours / 1024, baseline: theirs / 1024,
		}
	}
	var samples []sample
	if ours.resident > 0 && bare.resident > 0 && engine.resident > 0 {
		samples = append(samples,
			lines("resident memory", "gorilla, bare", 12, ours.resident, bare.resident),
			lines("resident memory", "Centrifuge", 0, ours.resident, engine.resident))
	}
	return append(samples,
		lines("heap and stacks", "gorilla, bare", 0, ours.live, bare.live),
		lines("heap and stacks", "Centrifuge", 0, ours.live, engine.live)), nil
}

func (b *bench) memoryPerSocket(ctx context.Context, kind string, sockets int) (each socketMemory, err error) {
	err = b.withSides(ctx, func(w *world, sides []*pushSide) error {
		side, workspace := sides[0], events.NewID()
		use := func(sockets int, version int64) (serverAnswer, error) {
			if _, err := side.open(members(workspace, sockets), openAtOnce, 1); err != nil {
				return serverAnswer{}, err
			}
			if _, err := side.fanOut(ctx, w, workspace, version); err != nil {
				return serverAnswer{}, err
			}
			return side.ask(serverQuestion{Memory: true})
		}
		// What the first sockets and the first collection load stays as it is.
		const few = 10
		before, err := use(few, 1)
		if err != nil {
			return err
		}
		if err := side.leave(); err != nil {
			return err
		}
		after, err := use(sockets, 2)
		each.resident = (after.Resident - before.Resident) / float64(sockets-few)
		each.live = (after.Live - before.Live) / float64(sockets-few)
		return err
	}, serverStart{Kind: kind})
	return each, err
}

// pushLatency commits at a steady rate, each time an event that some of the sockets are for, and takes the time from just
// before each commit until each of them has it.
func pushLatency(ctx context.Context, b *bench) ([]sample, error) {
	workspaces, each := b.amount(500, 20), 10
	var took []time.Duration
	err := b.withSides(ctx, func(w *world, sides []*pushSide) error {
		t, err := w.tasks(ctx, workspaces) // each is a workspace's only one, and has its id
		if err != nil {
			return err
		}
		var clients []socketClient
		for _, workspace := range t.ids {
			clients = append(clients, members(workspace, each)...)
		}
		if _, err := sides[0].open(clients, openAtOnce, 100); err != nil {
			return err
		}
		committed, err := w.commitEdits(ctx, t, b.length())
		if err != nil {
			return err
		}
		took, err = sides[0].since(ctx, w, committed)
		return err
	}, serverStart{Kind: hubServer})
	if err != nil {
		return nil, err
	}
	ms := inMilliseconds(took)
	about := fmt.Sprintf("push at %d commits/s: commit → its %d of %d sockets, ", commitsPerSecond, each, workspaces*each)
	return []sample{
		{line: line{Case: about + "p50", Ours: "relay + hub", Unit: milliseconds, Target: target{AtMost: 8}}, ours: median(ms)},
		{line: line{Case: about + "p99", Ours: "relay + hub", Unit: milliseconds, Target: target{AtMost: 40}}, ours: quantile(ms, 0.99)},
	}, nil
}

// commitEdits commits and relays for a while, and gives the moment just before each commit once all are in the stream.
func (w *world) commitEdits(ctx context.Context, t *tasks, length time.Duration) (*moments, error) {
	commit, stop, err := ourOutbox(ctx, w, t)
	if err != nil {
		return nil, err
	}
	before := 0
	committed, err := commitSteadily(ctx, commitsPerSecond, length, commit, func(warm *moments) error {
		before = warm.count()
		return w.stored(ctx, before)
	})
	if err == nil {
		err = w.stored(ctx, before+committed.count())
	}
	return committed, errors.Join(err, stop())
}

// since checks that each socket had the stream's events of its workspace, and gives the time from each of these moments to
// each arrival.
func (s *pushSide) since(ctx context.Context, w *world, began *moments) ([]time.Duration, error) {
	groups, err := w.byWorkspace(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := s.gather(gather{Groups: groups, Each: true})
	if err != nil {
		return nil, err
	}
	began.mu.Lock()
	defer began.mu.Unlock()
	var took []time.Duration
	for workspace, ids := range groups {
		for i, id := range ids {
			start, counts := began.at[id]
			if !counts {
				continue
			}
			for _, arrivals := range answer.Arrivals[workspace] {
				took = append(took, time.Duration(arrivals[i]-start.UnixNano()))
			}
		}
	}
	return took, nil
}

// byWorkspace reads the ids of the stream's events, in their order.
func (w *world) byWorkspace(ctx context.Context) (map[string][]string, error) {
	info, err := w.stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the stream: %w", err)
	}
	consumer, err := w.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, fmt.Errorf("read the stream: %w", err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(1000))
	if err != nil {
		return nil, fmt.Errorf("read the stream: %w", err)
	}
	defer messages.Stop()
	groups := make(map[string][]string)
	for range info.State.Msgs {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("read the stream: %w", err)
		}
		ev, err := events.Decode(msg.Data())
		if err != nil {
			return nil, err
		}
		groups[ev.WorkspaceID] = append(groups[ev.WorkspaceID], ev.ID)
	}
	return groups, nil
}

// pushResume lets clients come back at once that have all missed many events, and takes the time from the first dial until
// the last one is ready.
func pushResume(ctx context.Context, b *bench) ([]sample, error) {
	const workspaces = 10
	each, missed := b.amount(100, 5), b.amount(500, 20)
	var took time.Duration
	err := b.withSides(ctx, func(w *world, sides []*pushSide) (err error) {
		took, err = sides[0].resume(ctx, w, workspaces, each, missed)
		return err
	}, serverStart{Kind: hubServer})
	return []sample{{
		line: line{
			Case: fmt.Sprintf("push: %d clients come back at once, each missed %d events", workspaces*each, missed),
			Ours: "hub", Unit: milliseconds, Target: target{AtMost: 3000},
		},
		ours: float64(took) / float64(time.Millisecond),
	}}, err
}

func (s *pushSide) resume(ctx context.Context, w *world, workspaces, each, missed int) (time.Duration, error) {
	clients := make([]socketClient, 0, workspaces*each)
	groups := make(map[string][]string, workspaces)
	for range workspaces {
		workspace := events.NewID()
		groups[workspace] = nil
		clients = append(clients, members(workspace, each)...)
	}
	here, err := s.open(clients, openAtOnce, 0)
	if err != nil {
		return 0, err
	}
	if err := s.leave(); err != nil {
		return 0, err
	}
	if _, err := s.count(ctx, 0); err != nil {
		return 0, err
	}
	var list []events.Event
	for n := range missed {
		for workspace, ids := range groups {
			ev := edit(workspace, int64(n+1))
			list = append(list, ev)
			groups[workspace] = append(ids, ev.ID)
		}
	}
	if err := w.publishAll(ctx, list); err != nil {
		return 0, err
	}
	for i := range clients {
		clients[i].Path += "&cursor=" + here.Cursors[i]
	}
	again, err := s.open(clients, len(clients), missed+1)
	if err != nil {
		return 0, err
	}
	answer, err := s.gather(gather{Groups: groups})
	if err == nil && answer.Last > again.Ready {
		err = errors.New("a missed event came after the last client was ready")
	}
	return time.Duration(again.Ready - again.Began), err
}

// publishAll stores the events in their order.
func (w *world) publishAll(ctx context.Context, list []events.Event) error {
	const window = 200 // more than the client has room for waits, and then fails
	pending := make([]jetstream.PubAckFuture, 0, window)
	settle := func() error {
		for _, future := range pending {
			select {
			case <-future.Ok():
			case err := <-future.Err():
				return fmt.Errorf("publish events: %w", err)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		pending = pending[:0]
		return nil
	}
	for _, ev := range list {
		body, err := events.Encode(ev)
		if err != nil {
			return err
		}
		future, err := w.js.PublishMsgAsync(&nats.Msg{Subject: ev.NATSSubject(), Data: body}, jetstream.WithMsgID(ev.ID))
		if err != nil {
			return fmt.Errorf("publish event %s: %w", ev.ID, err)
		}
		if pending = append(pending, future); len(pending) == window {
			if err := settle(); err != nil {
				return err
			}
		}
	}
	return settle()
}

// pushStalled tells the same number of clients of one event after the other on two hubs, by turns. One of the hubs also has
// clients that never read: it has to do away with them, and the others may lose nothing.
func pushStalled(ctx context.Context, b *bench) ([]sample, error) {
	live, stalled, rounds := b.amount(900, 50), b.amount(100, 5), b.amount(400, 200)
	const with, without = 0, 1
	var took [2][]time.Duration
	// Small buffers, so that a client that doesn't read is felt after dozens of events, not after thousands.
	request := serverStart{Kind: hubServer, SendBuffer: 8 << 10}
	err := b.withSides(ctx, func(w *world, sides []*pushSide) error {
		workspaces := [2]string{events.NewID(), events.NewID()}
		for i, side := range sides {
			clients := members(workspaces[i], live)
			if i == with {
				for _, c := range members(workspaces[i], stalled) {
					c.Stalled = true
					clients = append(clients, c)
				}
			}
			if _, err := side.open(clients, openAtOnce, 1); err != nil {
				return err
			}
		}
		if _, err := sides[with].count(ctx, live+stalled); err != nil {
			return err
		}
		const warm = 5
		for round := range warm + rounds + 1 {
			for i := range sides {
				i = (i + b.run + round) % len(sides)
				d, err := sides[i].fanOut(ctx, w, workspaces[i], int64(round+1))
				if err != nil {
					return err
				}
				if round >= warm && round < warm+rounds {
					took[i] = append(took[i], d)
				}
			}
		}
		return sides[with].rid(ctx, live, stalled)
	}, request, request)
	if err != nil {
		return nil, err
	}
	about := fmt.Sprintf("push: one event → the last of %d sockets, beside %d stalled ones, ", live, stalled)
	us, them := inMilliseconds(took[with]), inMilliseconds(took[without])
	side := line{Ours: "beside them", Baseline: "without", Unit: milliseconds}
	p50, p99 := side, side
	p50.Case, p50.Target = about+"p50", target{Ratio: 0.8}
	p99.Case = about + "p99"
	return []sample{
		{line: p50, ours: median(us), baseline: median(them)},
		{line: p99, ours: quantile(us, 0.99), baseline: quantile(them, 0.99)},
	}, nil
}

// rid waits until the hub has none but the live clients, and shows that the stalled ones were closed for being slow.
func (s *pushSide) rid(ctx context.Context, live, stalled int) error {
	hub, err := s.count(ctx, live)
	if err != nil {
		return err
	}
	if hub.Slow != stalled {
		return fmt.Errorf("%d clients were closed for being slow, not %d", hub.Slow, stalled)
	}
	var answer clientsAnswer
	if err := s.clients.ask(clientsQuestion{Cut: true}, &answer); err != nil {
		return err
	}
	if answer.Cut != stalled {
		return fmt.Errorf("%d of %d stalled clients were cut off", answer.Cut, stalled)
	}
	return nil
}
