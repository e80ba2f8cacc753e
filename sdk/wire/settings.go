package wire

import (
	"encoding/json"
	"errors"
	"fmt"
)

// MaxSettings is the length of the longest settings message, in bytes. Longer
// than a frame, it may come in fragments like any message.
const MaxSettings = 1 << 20

// Settings is what each side sends first, as JSON. Zero limits mean the
// smallest: a side that says nothing gets nothing.
type Settings struct {
	Major   int `json:"major"`
	Calls   int `json:"calls"`   // calls in flight the sender of this accepts; ids are below it
	Budget  int `json:"budget"`  // bytes it accepts: of requests in flight, or of replies in fragments
	Message int `json:"message"` // bytes of the longest message it accepts
	Window  int `json:"window"`  // bytes of messages each stream may send it before credit
	// Services is the method table; methods are numbered through all
	// services in order, from 0. Sent by the side that serves.
	Services []Service `json:"services,omitempty"`
}

// A Service is one served interface.
type Service struct {
	Name    string   `json:"name"`
	Methods []Method `json:"methods"`
}

// A Method describes a method well enough to compare both sides' declarations.
type Method struct {
	Name       string `json:"name"`
	Shape      uint8  `json:"shape,omitempty"` // 0 unary, 1 server stream, 2 client stream, 3 both
	Idempotent bool   `json:"idempotent,omitempty"`
	In         string `json:"in,omitempty"`  // layout; empty for cells that speak only JSON
	Out        string `json:"out,omitempty"` // layout
}

// MaxMethods bounds the methods of one table, its services counted with them.
const MaxMethods = 4096

// AppendSettings appends s as a settings message.
func AppendSettings(b []byte, s Settings) ([]byte, error) {
	out, err := json.Marshal(s)
	if err != nil {
		return b, fmt.Errorf("encode settings: %w", err)
	}
	if len(out) > MaxSettings {
		return b, fmt.Errorf("encode settings: %d bytes: at most %d", len(out), MaxSettings)
	}
	return append(b, out...), nil
}

// ParseSettings decodes and checks a settings message. Unknown keys are
// allowed: they are how later versions say more.
func ParseSettings(b []byte) (Settings, error) {
	var s Settings
	if len(b) > MaxSettings {
		return s, fmt.Errorf("parse settings: %d bytes: at most %d", len(b), MaxSettings)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("parse settings: %w", err)
	}
	if s.Major != Major {
		return s, fmt.Errorf("parse settings: other side speaks version %d, this side %d", s.Major, Major)
	}
	if s.Calls < 0 || s.Budget < 0 || s.Message < 0 || s.Window < 0 {
		return s, errors.New("parse settings: negative limit")
	}
	n := len(s.Services) // an empty service costs memory, too
	for _, svc := range s.Services {
		n += len(svc.Methods)
		for _, m := range svc.Methods {
			if m.Shape > 3 {
				return s, fmt.Errorf("parse settings: method %.70q: unknown shape %d", svc.Name+"."+m.Name, m.Shape)
			}
		}
	}
	if n > MaxMethods {
		return s, fmt.Errorf("parse settings: %d services and methods: at most %d", n, MaxMethods)
	}
	return s, nil
}
