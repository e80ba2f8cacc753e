package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// The messages of the side channel are JSON objects with a "type". The kernel
// sends one hello, first, and replies; the plugin sends calls, and descriptors
// under tokens that the kernel chose.
const (
	typeHello = "hello"
	typeFD    = "fd"
	typeCall  = "call"
	typeReply = "reply"

	methodCertify = "certify"
)

// sideVersion is the version of the side channel's messages.
const sideVersion = 1

// maxBody bounds what a host call carries in either direction.
const maxBody = 16 << 10

type message struct {
	Type string `json:"type"`

	hello // of typeHello

	Token uint64 `json:"token,omitempty"` // of typeFD

	ID     uint64 `json:"id,omitempty"`     // of calls and replies, chosen by the caller
	Method string `json:"method,omitempty"` // of calls
	Body   []byte `json:"body,omitempty"`   // of calls and replies
	Code   string `json:"code,omitempty"`   // of replies: empty for success
	Text   string `json:"text,omitempty"`   // of replies: what failed
}

// hello is what a plugin must know before anything else.
type hello struct {
	Version  int    `json:"version,omitempty"`
	Instance string `json:"instance,omitempty"` // its name in the genome
	Secret   []byte `json:"secret,omitempty"`   // 32 bytes
	State    string `json:"state,omitempty"`    // absolute path of its directory
}

func parseMessage(b []byte) (message, error) {
	var m message
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("parse message %.80q: %w", b, err)
	}
	if len(m.Body) > maxBody || len(m.Text) > maxText {
		return m, fmt.Errorf("parse message %q: body of %d bytes, text of %d: at most %d and %d", clip(m.Type, 20), len(m.Body), len(m.Text), maxBody, maxText)
	}
	return m, nil
}

func formatMessage(m message) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings, numbers and bytes only
	}
	return b
}
