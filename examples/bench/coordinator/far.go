package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/cellkernel/cellkernel/examples/bench/result"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

// Between machines the other systems are started by whoever starts the two
// kernels (examples/far), and encrypt as cells do: gRPC over TCP and TLS 1.3,
// and QUIC alone. A server says where it listens and the SHA-256 of its
// certificate, which is all that a client believes.

// farOptions are what the baselines said when they were ready; empty: all is
// on this machine.
type farOptions struct{ grpc, quic string }

// farBase are the other systems on the other machine.
type farBase struct {
	grpc *grpcServer
	quic *quicServer
}

func newFarBase(o farOptions) (*farBase, error) {
	at, conf, err := pinned(o.grpc)
	if err != nil {
		return nil, fmt.Errorf("flag -far-grpc: %w", err)
	}
	b := &farBase{grpc: &grpcServer{target: "passthrough:" + at, creds: credentials.NewTLS(conf)}}
	if at, conf, err = pinned(o.quic); err != nil {
		return nil, fmt.Errorf("flag -far-quic: %w", err)
	}
	b.quic = &quicServer{at: at, tls: conf}
	return b, nil
}

// contenders lists who takes part between machines.
func (b *farBase) contenders(w workload, ours server) []contender {
	list := []contender{
		{result.CellkernelQUIC, ours},
		{result.RawQUIC, b.quic},
		{result.GRPCTLS, b.grpc},
	}
	if w.inFlight > 1 {
		list = append(list, contender{result.GRPCTLS, b.grpc.forEach()})
	}
	if w.inFlight*w.payload > maxWindow {
		list = append(list, contender{result.RawQUIC, b.quic.forEach()})
	}
	return list
}

// coordinateFar measures calls to the cell echo of another machine.
func coordinateFar(ctx context.Context, m *cell.Membrane, o options) error {
	base, err := newFarBase(o.far)
	if err != nil {
		return err
	}
	one := newCells(m, "echo", 1)
	if _, err := one.each(ctx); err != nil {
		return err
	}
	b := &bench{options: o, one: one, far: base}
	report := &result.Report{Machine: result.ThisMachine()}
	if report.Results, err = b.run(ctx); err != nil {
		return err
	}
	report.Ratios = result.Ratios(report.Results)
	report.Claims = farClaims(report)
	return publish(report, o)
}

// The bounds of calls between machines.
const (
	farVsGRPC64  = 3.0
	farVsGRPC256 = 7.0
	farVsRaw     = 0.6
)

// farClaims judges the rows that were measured.
func farClaims(r *result.Report) []result.Claim {
	var list []result.Claim
	judge := func(key, other string, bound float64, of func(result.Ratio) float64) {
		if ratio, ok := r.Ratios[key]; ok {
			list = append(list, result.Claim{
				Claim: key + " by " + other, Bound: fmt.Sprintf(">= %.1f x", bound),
				Value: fmt.Sprintf("%.2f x", of(ratio)), OK: of(ratio) >= bound,
			})
		}
	}
	vsGRPC := func(x result.Ratio) float64 { return x.VsGRPC }
	judge("echo-64B/64", result.GRPCTLS, farVsGRPC64, vsGRPC)
	judge("echo-64B/256", result.GRPCTLS, farVsGRPC256, vsGRPC)
	judge("echo-64KiB/8", result.RawQUIC, farVsRaw, func(x result.Ratio) float64 { return x.VsRaw })
	errs := uint64(0)
	for _, row := range r.Results {
		errs += row.Errors
	}
	return append(list, result.Claim{
		Claim: "every call answered, every reply right", Bound: "0 errors", Value: fmt.Sprintf("%d errors", errs), OK: errs == 0,
	})
}

// listenTLS is gRPC with default options over TCP and TLS.
func listenTLS(at string) (*listening, error) {
	conf, pin, err := selfSigned()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return nil, err
	}
	serve := func() error { return serveGRPC(l, grpc.Creds(credentials.NewTLS(conf))) }
	return &listening{serve, l.Close, fmt.Sprintf("%s %s/%s", ready, l.Addr(), pin)}, nil
}

// selfSigned makes a certificate and the hash by which clients know it.
func selfSigned() (*tls.Config, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("make certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, "", fmt.Errorf("make certificate: %w", err)
	}
	sum := sha256.Sum256(der)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}, hex.EncodeToString(sum[:]), nil
}

// pinned parses what a baseline said: its address, and how a client knows it.
func pinned(said string) (at string, conf *tls.Config, err error) {
	at, pin, ok := strings.Cut(said, "/")
	want, err := hex.DecodeString(pin)
	if _, _, bad := net.SplitHostPort(at); !ok || err != nil || bad != nil || len(want) != sha256.Size {
		return "", nil, fmt.Errorf("%q: want HOST:PORT/HASH", said)
	}
	return at, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // no authority knows the server: its hash does
		VerifyConnection: func(s tls.ConnectionState) error {
			if got := sha256.Sum256(s.PeerCertificates[0].Raw); string(got[:]) != string(want) {
				return errors.New("the server's certificate is another one")
			}
			return nil
		},
	}, nil
}
