package doctor

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/internal/platform/bus"
)

// How full something may be.
const (
	fullWarning = 0.80
	fullFailure = 0.95
)

// sysUser is the user of nats.conf's system account, the only one that may ask a server for its limits.
const sysUser = "sys"

// disk looks at the limits of the servers, as far as they may be asked for, at those of the account, and at the streams that
// refuse to grow past theirs.
func (b *broker) disk(ctx context.Context) ([]Finding, error) {
	var found []Finding
	account, err := b.js.AccountInfo(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for the account's limits: %w", err)
	}
	if limit := account.Limits.MaxStore; limit > 0 {
		found = append(found, full("The account's file store", account.Store, uint64(limit), "raise the account's limit"))
	}
	servers, err := b.servers(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range servers {
		found = append(found,
			full("The file store of "+s.Server.Name, s.Data.Store, s.Data.Config.MaxStore, "raise max_file_store, or add disk"),
			full("The memory store of "+s.Server.Name, s.Data.Memory, s.Data.Config.MaxMemory, "raise max_memory_store"))
	}
	streams := b.js.ListStreams(ctx)
	for info := range streams.Info() {
		if info.Config.Discard == jetstream.DiscardNew && info.Config.MaxBytes > 0 {
			found = append(found, full("The stream "+info.Config.Name, info.State.Bytes, uint64(info.Config.MaxBytes),
				remedy(info.Config.Name)))
		}
	}
	if err := streams.Err(); err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	var bad []Finding
	for _, f := range found {
		if f.Status != OK {
			bad = append(bad, f)
		}
	}
	if len(bad) > 0 {
		return bad, nil
	}
	note := " The servers' own limits were not asked for: NATS_PASSWORD_SYS is not known here."
	if len(servers) > 0 {
		note = ""
		for _, s := range servers {
			note += fmt.Sprintf(" %s may use %s.", s.Server.Name, size(s.Data.Config.MaxStore))
		}
	}
	return ok("JetStream holds %s on disk and %s in memory; nothing is near its limit.%s", size(account.Store), size(account.Memory), note), nil
}

func remedy(stream string) string {
	if stream == bus.Dead {
		return "requeue or discard dead letters (fdc dlq list): a full stream holds up the consumers whose events fail"
	}
	return "raise its max_bytes: it refuses what is new once it is full"
}

func full(what string, used, limit uint64, fix string) Finding {
	if limit == 0 {
		return Finding{Status: OK}
	}
	part := float64(used) / float64(limit)
	return graded(part, fullWarning, fullFailure, fix, "%s is %.0f %% full: %s of %s.", what, part*100, size(used), size(limit))
}

// serverStore is what a server tells its system account of JetStream.
type serverStore struct {
	Server struct {
		Name string `json:"name"`
	} `json:"server"`
	Data struct {
		Memory uint64 `json:"memory"`
		Store  uint64 `json:"storage"`
		Config struct {
			MaxMemory uint64 `json:"max_memory"`  //nolint:tagliatelle // the server's
			MaxStore  uint64 `json:"max_storage"` //nolint:tagliatelle // the server's
		} `json:"config"`
	} `json:"data"`
}

// servers asks each server of the cluster; none when the system account's password isn't known.
func (b *broker) servers(ctx context.Context) ([]serverStore, error) {
	password, known := b.Users[sysUser]
	if !known {
		return nil, nil
	}
	nc, err := b.dial(sysUser, password)
	if err != nil {
		return nil, fmt.Errorf("connect as %s: %w", sysUser, err)
	}
	defer nc.Close()
	size := max(len(nc.Servers()), 1) // that many answer, if all do
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err == nil {
		err = nc.PublishMsg(&nats.Msg{Subject: "$SYS.REQ.SERVER.PING.JSZ", Reply: inbox})
	}
	if err != nil {
		return nil, fmt.Errorf("ask servers for their limits: %w", err)
	}
	var servers []serverStore
	for range size {
		answer, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			if len(servers) > 0 {
				break // a server that is down; the others are not
			}
			return nil, fmt.Errorf("ask servers for their limits: %w", err)
		}
		var s serverStore
		if err := json.Unmarshal(answer.Data, &s); err != nil {
			return nil, fmt.Errorf("read a server's limits: %w", err)
		}
		servers = append(servers, s)
	}
	return servers, nil
}

// size is a number of bytes for people.
func size(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit && prefix < 4 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[prefix])
}
