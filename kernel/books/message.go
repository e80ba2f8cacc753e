package books

import (
	"github.com/cellkernel/cellkernel/sdk"
)

// MaxMessage is the longest message of the protocol, in bytes.
const MaxMessage = sdk.MaxRecord

// The kinds of messages, as they are on the wire: never reorder or reuse one.
const (
	kindHello uint8 = iota + 1
	kindWelcome
	kindGrant
	kindProposal
	kindSignature
	kindRefusal
)

// A Message is what one side tells the other. The payer says Hello, Grant and
// Countersigned, the payee Welcome and Proposal, either a Refusal.
type Message interface {
	messageKind() uint8
	append(b []byte) []byte
}

// A Hello begins a session: what the payer has.
type Hello struct {
	MinEpoch uint64 // it signs no receipt of an earlier epoch
	Nonce    [32]byte
	Last     Signed // the last receipt it has signed, zero if there is none
}

// A Welcome answers: what the payee has, and what its work costs.
type Welcome struct {
	Terms
	Nonce [32]byte
	Epoch uint64 // of its next receipt
	Last  Signed // the last receipt with both signatures, zero if there is none
}

// Terms are on what conditions a node works for another.
type Terms struct {
	Charges  bool // it is a donor; otherwise nothing below means anything
	Price    Price
	Cores    uint16
	Interval uint16  // between receipts, in milliseconds
	Credit   sdk.ATP // the payer may owe so much
	Owed     sdk.ATP // of that it owes
}

// A Grant says up to which sum of all receipts the payer will sign. It has been
// reserved.
type Grant struct{ Limit sdk.ATP }

// A Proposal is a receipt with the payee's signature, and the jobs it is for.
type Proposal struct {
	Signed
	List []Job
}

// A Countersigned is the payer's signature of a proposal.
type Countersigned struct {
	Epoch, Seq uint64
	Sig        Signature
}

// A Refusal ends a session.
type Refusal struct {
	Code sdk.Code
	Text string // printable ASCII, cut to 250 bytes
}

func (Hello) messageKind() uint8         { return kindHello }
func (Welcome) messageKind() uint8       { return kindWelcome }
func (Grant) messageKind() uint8         { return kindGrant }
func (Proposal) messageKind() uint8      { return kindProposal }
func (Countersigned) messageKind() uint8 { return kindSignature }
func (Refusal) messageKind() uint8       { return kindRefusal }

func (m Hello) append(b []byte) []byte {
	return m.Last.append(append(appendU64(b, m.MinEpoch), m.Nonce[:]...))
}

func (m Welcome) append(b []byte) []byte {
	b = appendFlag(b, m.Charges)
	b = appendU32(b, int(m.Price))
	b = append(b, byte(m.Cores>>8), byte(m.Cores), byte(m.Interval>>8), byte(m.Interval))
	b = appendATP(appendATP(b, m.Credit), m.Owed)
	b = appendU64(append(b, m.Nonce[:]...), m.Epoch)
	return m.Last.append(b)
}

func (m Grant) append(b []byte) []byte    { return appendATP(b, m.Limit) }
func (m Proposal) append(b []byte) []byte { return appendJobs(m.Signed.append(b), m.List) }

func (m Countersigned) append(b []byte) []byte {
	return append(appendU64(appendU64(b, m.Epoch), m.Seq), m.Sig[:]...)
}

const maxText = 250

func (m Refusal) append(b []byte) []byte {
	text := []byte(m.Text[:min(len(m.Text), maxText)])
	for i, c := range text {
		if c < ' ' || c > '~' {
			text[i] = '?'
		}
	}
	return appendText(append(b, byte(m.Code)), string(text))
}

// Encode returns the bytes of a message.
func Encode(m Message) []byte { return m.append([]byte{opVersion, m.messageKind()}) }

// ParseMessage decodes what [Encode] made. It judges no signature.
func ParseMessage(b []byte) (Message, error) {
	r := reader{b: b}
	if len(b) > MaxMessage || r.u8() != opVersion {
		return nil, sdk.Errorf(sdk.CodeIncompatible, "decode message about receipts: not of version %d", opVersion)
	}
	m := r.message(r.u8())
	if err := r.err(); err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "decode message about receipts: %v", err)
	}
	return m, nil
}

func (r *reader) message(kind uint8) Message {
	switch kind {
	case kindHello:
		return Hello{MinEpoch: r.u64(), Nonce: r.hash(), Last: r.lastSigned()}
	case kindWelcome:
		t := Terms{Charges: r.flag(), Price: Price(r.u32()), Cores: r.u16(), Interval: r.u16(), Credit: r.amount(), Owed: r.amount()}
		r.bad = r.bad || t.Price > MaxPrice
		return Welcome{Terms: t, Nonce: r.hash(), Epoch: r.u64(), Last: r.lastSigned()}
	case kindGrant:
		return Grant{r.amount()}
	case kindProposal:
		return Proposal{r.signed(), r.jobs()}
	case kindSignature:
		return Countersigned{r.u64(), r.u64(), r.signature()}
	case kindRefusal:
		m := Refusal{Code: sdk.Code(r.u8()), Text: string(r.bytes(int(r.u8())))}
		for i := range len(m.Text) {
			r.bad = r.bad || m.Text[i] < ' ' || m.Text[i] > '~'
		}
		r.bad = r.bad || len(m.Text) > maxText
		return m
	}
	r.bad = true
	return nil
}
