// Package admin is the door of a running kernel for people and their tools:
// HTTP with JSON bodies and server-sent events on a Unix socket that only its
// owner can open. The command line uses the [Client]; curl works as well:
//
//	curl --unix-socket .cell/run/admin.sock http://kernel/v1/ps
//
// A kernel implements [Kernel]; a [Server] offers it, and a [Client] is the
// same interface seen from another process, so whatever renders a kernel
// does not care on which side of the socket it runs.
//
// # The API
//
//	GET  /v1/version                              the handshake: Version
//	GET  /v1/status                               Status
//	GET  /v1/ps                                   []Process
//	GET  /v1/plugins                              []Plugin
//	GET  /v1/config                               []Setting
//	GET  /v1/events?after=SEQ                     stream of Event
//	GET  /v1/logs?source=S&since=T&tail=N&follow  stream of LogRecord
//	GET  /v1/cells/{cell}/methods                 []Method
//	POST /v1/cells/{cell}/call/{method}?timeout_ms=N&replica=N   JSON in, JSON out
//	POST /v1/cells/{cell}/{start|stop|restart}?replica=N
//	POST /v1/cells/{cell}/scale                   {"replicas":N}
//	POST /v1/cells/{cell}/launch                  {"command":[…]} in, Launch out
//	POST /v1/plugins/{plugin}/restart
//	POST /v1/plugins/{plugin}/swap                {"to":NAME,"force":BOOL}
//	POST /v1/apply                                Plan in, []Change out
//	GET  /v1/identity                             Identity
//	POST /v1/mesh/rotate                          Rotation
//	POST /v1/mesh/invite                          InviteRequest in, Invitation out
//	POST /v1/mesh/revoke                          {"revoked":N} out
//	GET  /v1/denied                               []Denial
//	POST /v1/denied/{node}/{deny|undeny}          Denial
//	POST /v1/down                                 DownRequest in, stream of Event out
//	GET  /v1/peers                                Peers
//	GET  /v1/ping?node=ID|NAME|ADDR&count=N       stream of Pulse
//	GET  /v1/explain?cell=C&method=M&from=C       Explanation
//	GET  /v1/wallet                               Wallet
//	GET  /v1/wallet/entries?seq=N&since=T&tail=N&peer=P&receipts=true  stream of Entry
//	POST /v1/wallet/credit                        {"peer":NODE,"amount_us":N} in, WalletPeer out
//	GET  /metrics                                 whatever Options.Metrics serves
//
// A failure is {"error":{"code","executed","text"}} with the HTTP status that
// is closest to the code, and with a "cause" where it has a [Cause]. A stream carries one JSON object per event, a
// comment every few seconds while there is nothing to say, and ends with an
// event named "end" whose data is {} or the error; a stream without that
// event was cut.
package admin
