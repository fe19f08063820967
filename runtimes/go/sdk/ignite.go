// Package ignite is the HTTP front of a Go function: the platform owns server, port and readiness, the user a handler.
//
//	func main() {
//		ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
//			return payload, nil
//		})
//	}
package ignite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Handler answers one invocation. An error or a panic is 500 with {"error": …}.
type Handler func(payload []byte, ctx *Context) ([]byte, error)

// Context is what the platform knows of an invocation, and its HTTP envelope.
type Context struct {
	ExecutionID    string
	FunctionID     string
	OrganizationID string
	Headers        http.Header
	Method         string
	Path           string // as it was sent, not decoded
	Query          string

	ctx context.Context
}

// Context ends when the caller has gone, for calls that take a context.Context.
func (c *Context) Context() context.Context { return c.ctx }

// Done is closed when the caller has gone.
func (c *Context) Done() <-chan struct{} { return c.ctx.Done() }

const (
	defaultConcurrency = 64
	bodyLimit          = 64 << 20
	queueTimeout       = time.Minute
)

// Start serves the handler on $PORT (80) until TERM, then finishes what is in flight and returns.
func Start(handler Handler) {
	port := os.Getenv("PORT")
	if port == "" {
		port = "80"
	}
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	server := &http.Server{
		Handler:           front(handler, concurrency(), queueTimeout),
		ReadHeaderTimeout: 75 * time.Second,
		ReadTimeout:       5 * time.Minute, // of headers and body; net/http lifts it once both are read
		IdleTimeout:       75 * time.Second,
		MaxHeaderBytes:    64 << 10,
	}
	var silent silentConnections
	server.ConnState = silent.track
	drained := make(chan struct{})
	go func() {
		<-stop.Done()
		silent.closeAll()
		_ = server.Shutdown(context.Background())
		close(drained)
	}()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-drained
}

// silentConnections are those that never sent a byte. Shutdown would wait five seconds for each; nobody needs them.
type silentConnections struct {
	mutex    sync.Mutex
	open     map[net.Conn]struct{}
	stopping bool
}

func (s *silentConnections) track(connection net.Conn, state http.ConnState) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if state != http.StateNew {
		delete(s.open, connection)
		return
	}
	if s.stopping {
		_ = connection.Close()
		return
	}
	if s.open == nil {
		s.open = map[net.Conn]struct{}{}
	}
	s.open[connection] = struct{}{}
}

func (s *silentConnections) closeAll() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.stopping = true
	for connection := range s.open {
		_ = connection.Close()
	}
}

func concurrency() int {
	limit, err := strconv.Atoi(os.Getenv("IGNITE_MAX_CONCURRENCY"))
	if err != nil || limit <= 0 {
		return defaultConcurrency
	}
	return limit
}

// front gives every request but GET /healthz to the handler, at most limit at once; the rest waits up to
// `patience`, then gets 503.
func front(handler Handler, limit int, patience time.Duration) http.Handler {
	slots := make(chan struct{}, limit)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := sentPath(r.RequestURI)
		if path == "/healthz" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			w.Header().Set("content-type", "text/plain; charset=utf-8")
			_, _ = io.WriteString(w, "ok\n")
			return
		}
		payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
		if err != nil {
			status := http.StatusBadRequest
			var tooLarge *http.MaxBytesError
			if errors.As(err, &tooLarge) {
				status = http.StatusRequestEntityTooLarge
			}
			fail(w, status, err.Error())
			return
		}
		waiting := time.NewTimer(patience)
		defer waiting.Stop()
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-r.Context().Done():
			return
		case <-waiting.C:
			fail(w, http.StatusServiceUnavailable, fmt.Sprintf("no handler became free within %s", patience))
			return
		}
		answer, err := call(handler, payload, &Context{
			ExecutionID:    r.Header.Get("x-ignite-execution-id"),
			FunctionID:     r.Header.Get("x-ignite-function-id"),
			OrganizationID: r.Header.Get("x-ignite-organization-id"),
			Headers:        r.Header,
			Method:         r.Method,
			Path:           path,
			Query:          r.URL.RawQuery,
			ctx:            r.Context(),
		})
		if err != nil {
			fail(w, http.StatusInternalServerError, err.Error())
			return
		}
		w.Header().Set("content-type", contentType(answer))
		_, _ = w.Write(answer)
	})
}

// sentPath is the path of a request target as it was sent. URL.Path is decoded, so `/a%2Fb` and `/a/b` would be one,
// and URL.EscapedPath encodes anew where a client did not have to. `*` and an authority are the path "/".
func sentPath(target string) string {
	path, _, _ := strings.Cut(target, "?")
	if _, rest, absolute := strings.Cut(path, "://"); absolute {
		_, path, _ = strings.Cut(rest, "/")
		return "/" + path
	}
	if !strings.HasPrefix(path, "/") {
		return "/"
	}
	return path
}

// call turns a panic into an error and its stack into the log.
func call(handler Handler, payload []byte, ctx *Context) (answer []byte, err error) {
	defer func() {
		if caught := recover(); caught != nil {
			fmt.Fprintf(os.Stderr, "panic: %v\n%s", caught, debug.Stack())
			err = fmt.Errorf("panic: %v", caught)
		}
	}()
	return handler(payload, ctx)
}

func contentType(answer []byte) string {
	if json.Valid(answer) {
		return "application/json"
	}
	return http.DetectContentType(answer)
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message})
}
