package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"fdc/events"
)

// object is a JSON object; encoding/json writes its keys in alphabetical order.
type object map[string]any

// asyncAPI renders the AsyncAPI 3.0 document. What AsyncAPI cannot say about NATS (its binding knows queues alone) stands
// in x- fields.
func asyncAPI() ([]byte, error) {
	common, err := commonSchema()
	if err != nil {
		return nil, err
	}
	channels, operations, messages := object{}, object{}, object{}
	for _, t := range events.Types() {
		message, err := messageOf(t, common)
		if err != nil {
			return nil, err
		}
		id := t.Action()
		messages[id] = message
		channels[id] = channelOf(t)
		operations[id] = object{
			"action":   "send",
			"channel":  ref("channels", id),
			"messages": []object{ref("channels", id, "messages", id)},
			"summary":  t.Summary,
		}
	}
	b, err := json.MarshalIndent(object{
		"asyncapi": "3.0.0",
		"info": object{
			"title":   "FDC events",
			"version": "1.0.0",
			"description": "Every fact that one service of FDC tells another: CloudEvents 1.0 in structured JSON, at least once, " +
				"in order per aggregate. Generated from package events.",
			"license": object{"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
		},
		"defaultContentType": events.ContentType,
		"servers": object{
			"bus": object{"host": "127.0.0.1:4222", "protocol": "nats", "description": "The bus of `fdc dev`."},
		},
		"channels":   channels,
		"operations": operations,
		"components": object{"messages": messages, "schemas": object{"event": common}},
		"x-nats-streams": object{
			"EVENTS": object{
				"subjects":  []string{events.AllEvents},
				"consumers": []string{"syncer", "cache-invalidator", "audit-archiver"},
				"messageId": "the event's id",
			},
			"DEAD": object{
				"subjects":  []string{"dead.>"},
				"address":   "dead.<consumer>.<original subject>",
				"messageId": "<consumer>:<event id>",
				"headers":   []string{"Fdc-Dead-Consumer", "Fdc-Dead-Reason", "Fdc-Dead-Attempts", "Fdc-Dead-Sequence"},
			},
		},
	}, "", "  ")
	return append(b, '\n'), err
}

func channelOf(t events.Type) object {
	id, scope := t.Action(), events.SystemScope
	if t.Scope != events.ScopeSystem {
		scope = "{scopeId}"
	}
	channel := object{
		"title":    t.Name,
		"address":  address(t, scope),
		"messages": object{id: ref("components", "messages", id)},
	}
	if t.Scope != events.ScopeSystem {
		description := "The " + string(t.Scope) + "'s id."
		if t.MayLackUser {
			description = "The user's id, or " + events.SystemScope + " when the address is no user's."
		}
		channel["parameters"] = object{"scopeId": object{"description": description}}
	}
	if t.Stored {
		channel["x-nats-stream"] = "EVENTS"
	}
	if t.OrderedBy != "" {
		channel["x-ordered-by"] = t.OrderedBy + "/<subject>"
	}
	return channel
}

// messageOf describes a type's message as the common event and what is the type's own.
func messageOf(t events.Type, common object) (object, error) {
	schema, err := tree(t)
	if err != nil {
		return nil, err
	}
	own := object{}
	for name, property := range schema["properties"].(map[string]any) {
		if _, shared := common["properties"].(object)[name]; !shared {
			own[name] = property
		}
	}
	required := slices.DeleteFunc(schema["required"].([]any), func(name any) bool {
		return slices.Contains(common["required"].([]any), name)
	})
	return object{
		"name":    t.Name,
		"title":   t.Name,
		"summary": t.Summary,
		"payload": object{"allOf": []object{
			ref("components", "schemas", "event"),
			{"type": "object", "properties": own, "required": required},
		}},
	}, nil
}

// commonSchema is what the schemas of all types have in common.
func commonSchema() (object, error) {
	var properties object
	var required []any
	for _, t := range events.Types() {
		schema, err := tree(t)
		if err != nil {
			return nil, err
		}
		its := schema["properties"].(map[string]any)
		if properties == nil {
			properties, required = maps.Clone(object(its)), schema["required"].([]any)
		}
		maps.DeleteFunc(properties, func(name string, property any) bool { return !reflect.DeepEqual(its[name], property) })
		required = slices.DeleteFunc(required, func(name any) bool { return !slices.Contains(schema["required"].([]any), name) })
	}
	return object{"type": "object", "properties": properties, "required": required}, nil
}

func tree(t events.Type) (map[string]any, error) {
	var tree map[string]any
	b, ok := events.Schema(t.Name)
	if !ok {
		return nil, fmt.Errorf("no schema of %s", t.Name)
	}
	return tree, json.Unmarshal(b, &tree)
}

func ref(path ...string) object {
	return object{"$ref": "#/" + strings.Join(path, "/")}
}
