package events_test

import (
	"fmt"

	"fdc/events"
)

func ExampleNew() {
	const (
		user      = "01929000-0000-7000-8000-0000000000a1"
		workspace = "01929000-0000-7000-8000-0000000000b1"
		task      = "01929000-0000-7000-8000-0000000000d1"
	)
	ev := events.New(
		events.Meta{Source: "/fdc/api", ActorID: user},
		task,
		events.TaskUpdated{TaskID: task, WorkspaceID: workspace, Version: 7, Changed: events.Changed("title", "dueDate")},
	)
	fmt.Println(ev.Type)
	fmt.Println(ev.NATSSubject())
	fmt.Println(ev.Aggregate(), ev.Version())
	// Output:
	// fdc.task.updated.v1
	// evt.task.updated.v1.01929000-0000-7000-8000-0000000000b1
	// task/01929000-0000-7000-8000-0000000000d1 7
}

func ExampleDecode() {
	body := []byte(`{
		"specversion": "1.0",
		"id": "01929000-0000-7000-8000-00000000000e",
		"type": "fdc.session.revoked.v1",
		"source": "/fdc/api",
		"subject": "01929000-0000-7000-8000-0000000000c1",
		"time": "2026-03-01T09:30:15Z",
		"datacontenttype": "application/json",
		"dataschema": "urn:fdc:schema:fdc.session.revoked.v1",
		"actorid": "system",
		"userid": "01929000-0000-7000-8000-0000000000a1",
		"data": {
			"sessionId": "01929000-0000-7000-8000-0000000000c1",
			"userId": "01929000-0000-7000-8000-0000000000a1",
			"version": 2,
			"reason": "expired",
			"device": "a field that this version does not know"
		}
	}`)
	ev, err := events.Decode(body)
	if err != nil {
		fmt.Println(err)
		return
	}
	switch data := ev.Data.(type) {
	case events.SessionRevoked:
		fmt.Println(data.SessionID, data.Reason)
	default:
		fmt.Println("not for us:", ev.Type)
	}
	// Output: 01929000-0000-7000-8000-0000000000c1 expired
}

func ExampleMaskEmail() {
	fmt.Println(events.MaskEmail("alice@example.com"))
	// Output: a***@example.com
}
