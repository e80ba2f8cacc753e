package quictransport_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
	"github.com/quic-go/quic-go"
)

// BenchmarkEcho compares a link through two plugin processes with quic-go
// alone, under the same windows. Who calls, who answers and each plugin are
// processes of their own. n messages are in flight; what comes back together
// goes out together again.
func BenchmarkEcho(b *testing.B) {
	for _, load := range []struct{ n, size int }{{1, 64}, {64, 64}, {256, 64}, {8, 64 << 10}} {
		b.Run(fmt.Sprintf("%dx%dB", load.n, load.size), func(b *testing.B) {
			b.Run("plugins", func(b *testing.B) {
				c, cpu := pluginLink(b)
				before := cpu()
				circulate(b, c, load.n, load.size)
				b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "plugin-µs/call")
			})
			b.Run("quic-go", func(b *testing.B) { circulate(b, bareLink(b), load.n, load.size) })
		})
	}
}

// circulate keeps n messages of size bytes going round.
func circulate(b *testing.B, c io.ReadWriter, n, size int) {
	b.Helper()
	total, window := b.N*size, n*size
	failed := make(chan error, 1)
	tokens := make(chan int, 1<<16) // bytes that may be written
	go func() {
		sent := make([]byte, window)
		for k := range tokens {
			if _, err := c.Write(sent[:k]); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	b.ResetTimer()
	written := min(window, total)
	tokens <- written
	buf := make([]byte, min(window, 256<<10))
	for read := 0; read < total; {
		k, err := c.Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		read += k
		if more := min(k, total-written); more > 0 {
			written += more
			tokens <- more
		}
	}
	b.StopTimer()
	close(tokens)
	if err := <-failed; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(0, "ns/op")
}

// pluginLink is a link through two plugin processes to a process that echoes,
// and what the two have used of the processor.
func pluginLink(b *testing.B) (net.Conn, func() time.Duration) {
	b.Helper()
	var pids []int
	open := func() sdk.Transport {
		target, o := self(b), plugin.Options{Env: []string{serve + "=1"}, Certify: plugintest.Certify}
		c, err := plugin.Start(b.Context(), plugin.Command{Name: "quic", Path: target}, o)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Kill() })
		pids = append(pids, c.Info().PID)
		tr, err := c.Transport()
		if err != nil {
			b.Fatal(err)
		}
		return tr
	}
	near, far := connect(b, open(), open(), "127.0.0.1:0")
	f, err := far.(plugin.Filer).File()
	if err != nil {
		b.Fatal(err)
	}
	child(b, "echo", f)
	far.Close()
	return near, func() (used time.Duration) {
		for _, pid := range pids {
			used += cpuOf(b, pid)
		}
		return used
	}
}

// cpuOf reads utime and stime of proc_pid_stat(5), in ticks of 10 ms.
func cpuOf(t testing.TB, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// connect dials from one transport to a listener of another.
func connect(t testing.TB, from, to sdk.Transport, host string) (near, far net.Conn) {
	t.Helper()
	l, err := to.Listen(context.Background(), sdk.Addr{Scheme: "quic", Host: host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	near, err = from.Dial(context.Background(), addrOf(l))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return near, far
}

func addrOf(l net.Listener) sdk.Addr {
	return sdk.Addr{Scheme: "quic", Host: l.Addr().String(), Hint: l.(sdk.Hinter).Hint()}
}

func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// child starts this binary in a role, with f as descriptor 3, and returns what
// it prints.
func child(t testing.TB, as string, f *os.File) *bufio.Reader {
	t.Helper()
	cmd := exec.Command(self(t))
	cmd.Env = append(os.Environ(), role+"="+as)
	cmd.Stderr = os.Stderr
	if f != nil {
		cmd.ExtraFiles = []*os.File{f}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if f != nil {
		f.Close()
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return bufio.NewReader(out)
}

const role = "TEST_ROLE"

// roles are what this binary can be besides the tests.
func roles() map[string]func() {
	return map[string]func(){
		"echo": func() {
			c, err := net.FileConn(os.NewFile(3, "link"))
			if err != nil {
				panic(err)
			}
			echo(c)
		},
		"quic": serveBare,
	}
}

func echo(c io.ReadWriter) {
	buf := make([]byte, 256<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// bare is what the transport sets, for quic-go alone.
func bare() *quic.Config {
	return &quic.Config{
		InitialStreamReceiveWindow: 256 << 10, MaxStreamReceiveWindow: 256 << 10,
		InitialConnectionReceiveWindow: 64 << 20, MaxConnectionReceiveWindow: 64 << 20,
	}
}

// serveBare echoes on the first stream of one connection.
func serveBare() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	der, err := plugintest.Certify(context.Background(), spki)
	if err != nil {
		panic(err)
	}
	l, err := quic.ListenAddr("127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"echo"},
	}, bare())
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	conn, err := l.Accept(context.Background())
	if err != nil {
		panic(err)
	}
	stream, err := conn.AcceptStream(context.Background())
	if err != nil {
		return
	}
	echo(stream)
}

func bareLink(b *testing.B) io.ReadWriter {
	b.Helper()
	addr, err := child(b, "quic", nil).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	conn, err := quic.DialAddr(b.Context(), strings.TrimSpace(addr), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"echo"}}, bare())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.CloseWithError(0, "") })
	stream, err := conn.OpenStreamSync(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return stream
}
