// Package synapse secures a link between two cells that no single kernel
// opened: Noise_XX_25519_ChaChaPoly_BLAKE2s (Noise revision 34) over any
// reliable stream, whatever protects the hops below it.
//
// # Who is on the other side
//
// A cell has an X25519 [Key] that lives as long as its process. What the key
// means is said by a certificate that this package carries and does not read:
// the cell hands the other side's certificate, the key that was proved and the
// hash of the handshake to its own kernel, by [Config].Admit. Nothing is sent
// or read on behalf of the caller before the kernel has said yes. Whoever opens
// the link does not even show its certificate before that: Admit is called a
// first time between the second and the third message.
//
// # On the wire
//
// Every message is preceded by its length, u16 big endian (Noise section 13).
//
//	->  e                    32 bytes, without payload
//	<-  e, ee, s, es         payload: certificate, 1 to MaxCertificate bytes
//	->  s, se                payload: certificate
//	<-> transport messages   16 to 65 535 bytes with their tag
//
// The prologue, which both sides must have alike without sending it, is
//
//	"cellkernel/synapse/v1" 0  mesh id[32]  u16 length, link header  binding[32]
//
// so a handshake can not be moved to another mesh, another link, or another
// channel: one that somebody ends and begins anew on the way has another
// binding on each side. Direction is part of Noise itself: the initiator sends
// with the first key of Split, the responder with the second.
//
// Each direction replaces its key (Noise section 11.3) after 65 536 messages
// or 1 GiB of plaintext, whichever comes first; both sides count. The nonce
// goes on. A transport message without plaintext is the authenticated end of
// the stream: a stream that ends without one was cut.
//
// There is no padding: lengths are visible, to within what is written at once.
//
// # Failure
//
// All that the other side can do wrong is [ErrHandshake] before and
// [ErrStream] after the handshake, without detail, and the other side is told
// nothing at all. State is dropped: no message can be tried twice. A handshake
// takes at most [Budget], the kernels' verdicts included.
//
// [Meet] is the second, smaller handshake: two that share a one-time key and
// know nothing else of each other yet.
package synapse
