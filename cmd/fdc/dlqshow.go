package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"fdc/internal/replay"
)

// letterDetail is what dlq show prints.
type letterDetail struct {
	letterItem
	EventID          string            `json:"eventId,omitempty"`
	OriginalSequence uint64            `json:"originalSequence,omitempty"` // in EVENTS
	OriginalTime     *time.Time        `json:"originalTime,omitempty"`     // at which EVENTS took it, as long as it holds it
	Headers          map[string]string `json:"headers"`
	Event            json.RawMessage   `json:"event"`          // the body, where it is JSON; else null
	Body             []byte            `json:"body,omitempty"` // the body, where it is none, as base64
	History          []historyItem     `json:"history"`        // what operators did with letters of this event and consumer
}

// historyItem is a row of the audit log about the letter's event.
type historyItem struct {
	Time     time.Time `json:"time"`
	Action   string    `json:"action"`
	Sequence uint64    `json:"sequence"` // in DEAD, of the letter then
	ActorID  string    `json:"actorId"`
	Reason   string    `json:"reason,omitempty"`
}

func (c *cli) dlqShow() *cobra.Command {
	var sequences []uint64
	return &cobra.Command{
		Use: "show SEQ", Short: "Show a dead letter: its body, why it failed, and what was done with it before",
		Args: func(_ *cobra.Command, args []string) (err error) {
			if len(args) != 1 {
				return usage("dlq show wants a sequence of DEAD, as dlq list shows them")
			}
			sequences, err = letterSequences(args)
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withLetters(cmd.Context(), false, func(ctx context.Context, dead *replay.DeadLetters) error {
				letters, err := selectLetters(ctx, dead, sequences, replay.LetterFilter{})
				if err != nil {
					return err
				}
				detail, err := c.letterDetail(ctx, dead, letters[0])
				switch {
				case err != nil:
					return err
				case c.json:
					return c.printJSON(detail)
				}
				return c.printLetter(detail)
			})
		},
	}
}

func (c *cli) letterDetail(ctx context.Context, dead *replay.DeadLetters, l replay.Letter) (letterDetail, error) {
	d := letterDetail{
		letterItem: letterItemOf(l), EventID: l.EventID(), OriginalSequence: l.Original, Headers: map[string]string{}, Event: json.RawMessage("null"),
		History: []historyItem{},
	}
	for name := range l.Header {
		if !strings.HasPrefix(name, "Nats-") || name == nats.MsgIdHdr { // the others are the server's
			d.Headers[name] = l.Header.Get(name)
		}
	}
	if json.Valid(l.Body) {
		d.Event = l.Body
	} else {
		d.Body = l.Body
	}
	if at, ok := dead.TakenAt(ctx, l); ok {
		d.OriginalTime = &at
	}
	return d, c.letterHistory(ctx, l, &d)
}

// letterHistory asks the audit log. A letter is worth seeing without it, while the database is away.
func (c *cli) letterHistory(ctx context.Context, l replay.Letter, d *letterDetail) error {
	config, err := c.operator()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, operatorPatience)
	defer cancel()
	pool, err := openDatabase(ctx, config, "fdc-dlq")
	if err == nil {
		defer pool.Close()
		var history []replay.LetterAct
		history, err = replay.LetterHistory(ctx, pool, l)
		for _, act := range history {
			d.History = append(d.History, historyItem(act))
		}
	}
	if err != nil {
		fmt.Fprintf(c.stderr, "the history is missing: %v\n", err) //nolint:errcheck // it is no part of the result
	}
	return nil
}

func (c *cli) printLetter(d letterDetail) error {
	original := "sequence not known"
	if d.OriginalSequence != 0 {
		original = fmt.Sprintf("%d, no longer held", d.OriginalSequence)
		if d.OriginalTime != nil {
			original = fmt.Sprintf("%d, since %s", d.OriginalSequence, shortTime(*d.OriginalTime))
		}
	}
	if err := c.table("DEAD LETTER", []any{"sequence", d.Sequence}, [][]any{
		{"consumer", d.Consumer},
		{"subject", d.Subject},
		{"event", d.EventID},
		{"in EVENTS", original},
		{"set aside", shortTime(d.Time)},
		{"attempts", d.Attempts},
		{"reason", d.Reason},
	}); err != nil {
		return err
	}
	if len(d.History) > 0 {
		var acts [][]any
		for _, h := range d.History {
			acts = append(acts, []any{shortTime(h.Time), h.Action, h.Sequence, h.ActorID, h.Reason})
		}
		if err := c.table("BEFORE", []any{"time", "action", "sequence", "by", "reason"}, acts); err != nil {
			return err
		}
	}
	var pretty bytes.Buffer
	if len(d.Body) == 0 && json.Indent(&pretty, d.Event, "", "  ") == nil {
		return c.printf("%s\n", pretty.Bytes())
	}
	// Quoted: what is no JSON may hold what a terminal takes for commands.
	return c.printf("no JSON, %d bytes: %.2000q\n", len(d.Body), d.Body)
}
