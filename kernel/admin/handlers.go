package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// routes maps the API to the kernel's methods.
func (s *Server) routes(metrics http.Handler) http.Handler {
	k := s.kernel
	mux := http.NewServeMux()
	get := func(path string, f func(*http.Request) (any, error)) {
		mux.HandleFunc("GET /v1/"+path, s.answer(func(_ http.ResponseWriter, r *http.Request) (any, error) { return f(r) }))
	}
	get("version", func(*http.Request) (any, error) { return k.Version(), nil })
	get("status", func(r *http.Request) (any, error) { return k.Status(r.Context()) })
	get("ps", func(r *http.Request) (any, error) { return list(k.Processes(r.Context())) })
	get("plugins", func(r *http.Request) (any, error) { return list(k.Plugins(r.Context())) })
	get("config", func(r *http.Request) (any, error) { return list(k.Config(r.Context())) })
	get("cells/{cell}/methods", s.describe)
	mux.HandleFunc("GET /v1/events", s.events)
	mux.HandleFunc("GET /v1/logs", s.logs)
	mux.HandleFunc("POST /v1/cells/{cell}/start", s.control(k.Start))
	mux.HandleFunc("POST /v1/cells/{cell}/stop", s.control(k.Stop))
	mux.HandleFunc("POST /v1/cells/{cell}/restart", s.control(k.Restart))
	mux.HandleFunc("POST /v1/cells/{cell}/scale", s.answer(s.scale))
	mux.HandleFunc("POST /v1/cells/{cell}/launch", s.answer(s.launch))
	mux.HandleFunc("POST /v1/cells/{cell}/call/{method}", s.call)
	mux.HandleFunc("POST /v1/plugins/{plugin}/restart", s.answer(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return struct{}{}, k.RestartPlugin(r.Context(), r.PathValue("plugin"))
	}))
	mux.HandleFunc("POST /v1/plugins/{plugin}/swap", s.answer(s.swap))
	mux.HandleFunc("POST /v1/apply", s.answer(s.apply))
	mux.HandleFunc("POST /v1/down", s.down)
	s.probeRoutes(mux)
	s.memberRoutes(mux)
	s.walletRoutes(mux)
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, sdk.Errorf(sdk.CodeNotFound, "%s %s: no such request", r.Method, r.URL.Path))
	})
	return mux
}

// list makes an empty list [] instead of null.
func list[T any](l []T, err error) (any, error) {
	if l == nil {
		l = []T{}
	}
	return l, err
}

// answer serves f's result as JSON.
func (s *Server) answer(f func(http.ResponseWriter, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(w, r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		b, err := json.Marshal(v)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		send(w, http.StatusOK, append(b, '\n'))
	}
}

// target reads the cell and replica that a request names.
func target(r *http.Request) (Target, error) {
	cell, err := sdk.ParseCellName(r.PathValue("cell"))
	if err != nil {
		return Target{}, sdk.Errorf(sdk.CodeInvalid, "%v", err)
	}
	n, err := number(r, "replica", MaxIndex)
	return Target{Cell: cell, Replica: int(n)}, err
}

// number reads a query parameter from 0 to most; absent is 0.
func number(r *http.Request, name string, most int64) (int64, error) {
	v := r.FormValue(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, sdk.Errorf(sdk.CodeInvalid, "parameter %s=%.40q: want a number from 0 to %d", name, v, most)
	}
	return n, nil
}

// decode reads a JSON body strictly into v. No body leaves v as it is.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := readBody(w, r, MaxBody)
	if err != nil || len(b) == 0 {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "decode request: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return sdk.Errorf(sdk.CodeInvalid, "decode request: data behind the JSON value")
	}
	return nil
}

func (s *Server) control(f func(context.Context, Target) error) http.HandlerFunc {
	return s.answer(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		t, err := target(r)
		if err != nil {
			return nil, err
		}
		return struct{}{}, f(r.Context(), t)
	})
}

type scaleBody struct {
	Replicas *int `json:"replicas"`
}

func (s *Server) scale(w http.ResponseWriter, r *http.Request) (any, error) {
	t, err := target(r)
	if err != nil {
		return nil, err
	}
	var b scaleBody
	if err := decode(w, r, &b); err != nil {
		return nil, err
	}
	if b.Replicas == nil || *b.Replicas < 0 || *b.Replicas > MaxReplicas {
		return nil, sdk.Errorf(sdk.CodeInvalid, "scale %q: want replicas from 0 to %d", t.Cell, MaxReplicas)
	}
	return struct{}{}, s.kernel.Scale(r.Context(), t.Cell, *b.Replicas)
}

type launchBody struct {
	Command []string `json:"command"`
}

func (s *Server) launch(w http.ResponseWriter, r *http.Request) (any, error) {
	t, err := target(r)
	if err != nil {
		return nil, err
	}
	var b launchBody
	if err := decode(w, r, &b); err != nil {
		return nil, err
	}
	return s.kernel.Launch(r.Context(), t.Cell, b.Command)
}

func (s *Server) describe(r *http.Request) (any, error) {
	t, err := target(r)
	if err != nil {
		return nil, err
	}
	return list(s.kernel.Describe(r.Context(), t.Cell))
}

func (s *Server) apply(w http.ResponseWriter, r *http.Request) (any, error) {
	var p Plan
	if err := decode(w, r, &p); err != nil {
		return nil, err
	}
	return list(s.kernel.Apply(r.Context(), p))
}

// call is no answer: its reply is the cell's JSON, not ours.
func (s *Server) call(w http.ResponseWriter, r *http.Request) {
	reply, err := s.callCell(w, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	send(w, http.StatusOK, append(reply[:len(reply):len(reply)], '\n'))
}

func (s *Server) callCell(w http.ResponseWriter, r *http.Request) (json.RawMessage, error) {
	t, err := target(r)
	if err != nil {
		return nil, err
	}
	ms, err := number(r, "timeout_ms", int64(24*time.Hour/time.Millisecond))
	if err != nil {
		return nil, err
	}
	body, err := readBody(w, r, MaxMessage)
	if err != nil {
		return nil, err
	}
	if !json.Valid(body) {
		return nil, sdk.Errorf(sdk.CodeInvalid, "call %s.%.64q: request is not JSON", t, r.PathValue("method"))
	}
	c := CallRequest{Target: t, Method: r.PathValue("method"), Body: body, Timeout: time.Duration(ms) * time.Millisecond}
	ctx := r.Context()
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	return s.kernel.Call(ctx, c)
}

// swapRequest is the body of a swap.
type swapRequest struct {
	To    string `json:"to"`
	Force bool   `json:"force"`
}

func (s *Server) swap(w http.ResponseWriter, r *http.Request) (any, error) {
	var q swapRequest
	if err := decode(w, r, &q); err != nil {
		return nil, err
	}
	return struct{}{}, s.kernel.SwapPlugin(r.Context(), r.PathValue("plugin"), q.To, q.Force)
}
