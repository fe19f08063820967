package ignite

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func ask(t *testing.T, server *httptest.Server, method, path, body string, headers map[string]string) (int, string, string) {
	t.Helper()
	request, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header.Get("content-type"), string(got)
}

func serve(t *testing.T, handler Handler, limit int, patience time.Duration) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(front(handler, limit, patience))
	t.Cleanup(server.Close)
	return server
}

func TestContextHoldsThePlatformsHeadersAndTheEnvelope(t *testing.T) {
	var got Context
	server := serve(t, func(payload []byte, ctx *Context) ([]byte, error) {
		got = *ctx
		return payload, nil
	}, 1, time.Minute)
	status, _, body := ask(t, server, "PUT", "/a/b?x=1&y=%20", "hello", map[string]string{
		"X-Ignite-Execution-Id": "e", "X-Ignite-Function-Id": "o/n", "X-Ignite-Organization-Id": "o", "X-Other": "1",
	})
	if status != 200 || body != "hello" {
		t.Fatalf("got %d %q", status, body)
	}
	if got.ExecutionID != "e" || got.FunctionID != "o/n" || got.OrganizationID != "o" {
		t.Errorf("ids: %+v", got)
	}
	if got.Method != "PUT" || got.Path != "/a/b" || got.Query != "x=1&y=%20" || got.Headers.Get("x-other") != "1" {
		t.Errorf("envelope: %+v", got)
	}
	select {
	case <-got.Done():
	case <-time.After(5 * time.Second):
		t.Error("Done stays open after the answer")
	}
	if got.Context().Err() == nil {
		t.Error("Context has not ended after the answer")
	}
}

func TestErrorsAndPanicsAre500(t *testing.T) {
	server := serve(t, func(payload []byte, ctx *Context) ([]byte, error) {
		if string(payload) == "panic" {
			panic("broken")
		}
		return nil, errors.New("refused")
	}, 1, time.Minute)
	for payload, want := range map[string]string{"": "refused", "panic": "panic: broken"} {
		status, kind, body := ask(t, server, "POST", "/", payload, nil)
		var found map[string]string
		if err := json.Unmarshal([]byte(body), &found); err != nil {
			t.Fatal(err)
		}
		if status != 500 || kind != "application/json" || found["error"] != want || len(found) != 1 {
			t.Errorf("%q: %d %s %s", payload, status, kind, body)
		}
	}
}

func TestContentTypes(t *testing.T) {
	server := serve(t, func(payload []byte, ctx *Context) ([]byte, error) { return payload, nil }, 1, time.Minute)
	for payload, want := range map[string]string{
		`{"a":1}`: "application/json", "plain words": "text/plain; charset=utf-8", "\x00\x01": "application/octet-stream",
	} {
		if _, kind, _ := ask(t, server, "POST", "/", payload, nil); kind != want {
			t.Errorf("%q: %s, want %s", payload, kind, want)
		}
	}
}

func TestBodyLimit(t *testing.T) {
	server := serve(t, func(payload []byte, ctx *Context) ([]byte, error) { return nil, nil }, 1, time.Minute)
	status, _, _ := ask(t, server, "POST", "/", strings.Repeat("x", bodyLimit+1), nil)
	if status != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d", status)
	}
}

func TestTheLimitHoldsAndImpatienceIs503(t *testing.T) {
	hold, entered := make(chan struct{}), make(chan struct{}, 4)
	server := serve(t, func(payload []byte, ctx *Context) ([]byte, error) {
		entered <- struct{}{}
		<-hold
		return nil, nil
	}, 1, 50*time.Millisecond)
	var busy sync.WaitGroup
	busy.Add(1)
	go func() {
		defer busy.Done()
		if status, _, _ := ask(t, server, "POST", "/", "", nil); status != 200 {
			t.Errorf("the first got %d", status)
		}
	}()
	<-entered
	if status, _, body := ask(t, server, "POST", "/", "", nil); status != 503 || !strings.Contains(body, "50ms") {
		t.Errorf("the second got %d %s", status, body)
	}
	if status, _, body := ask(t, server, "GET", "/healthz", "", nil); status != 200 || body != "ok\n" {
		t.Errorf("healthz got %d %s", status, body)
	}
	close(hold)
	busy.Wait()
	if len(entered) != 0 {
		t.Error("the second was let in")
	}
}

// deadlines is a listener whose connections tell the read deadline that was set last.
type deadlines struct {
	net.Listener
	mutex sync.Mutex
	last  time.Time
}

type deadlineConn struct {
	net.Conn
	listener *deadlines
}

func (d *deadlines) Accept() (net.Conn, error) {
	connection, err := d.Listener.Accept()
	return &deadlineConn{connection, d}, err
}

func (c *deadlineConn) SetReadDeadline(at time.Time) error {
	c.listener.mutex.Lock()
	c.listener.last = at
	c.listener.mutex.Unlock()
	return c.Conn.SetReadDeadline(at)
}

func TestTheTimeToReadARequestIsNotTheHandlersTime(t *testing.T) {
	var last time.Time
	server := httptest.NewUnstartedServer(nil)
	listener := &deadlines{Listener: server.Listener}
	server.Listener = listener
	server.Config.ReadTimeout = time.Minute
	server.Config.Handler = front(func(payload []byte, ctx *Context) ([]byte, error) {
		listener.mutex.Lock()
		defer listener.mutex.Unlock()
		last = listener.last
		return payload, nil
	}, 1, time.Minute)
	server.Start()
	t.Cleanup(server.Close)
	for _, headers := range []map[string]string{{}, {"Expect": "100-continue"}} {
		body := strings.Repeat("hello", len(headers))
		if status, _, got := ask(t, server, "POST", "/", body, headers); status != 200 || got != body {
			t.Fatalf("got %d %q", status, got)
		}
		if !last.IsZero() {
			t.Errorf("the handler of %q would lose its caller at %v", body, last)
		}
	}
}

func TestThePathIsTheOneThatWasSent(t *testing.T) {
	for target, want := range map[string]string{
		"/a%20b?x=%20":     "/a%20b",
		"/a%2Fb%3f":        "/a%2Fb%3f",
		"/^":               "/^",
		"//a/":             "//a/",
		"http://h/a%20b?x": "/a%20b",
		"http://h":         "/",
		"*":                "/",
		"h:80":             "/",
	} {
		if got := sentPath(target); got != want {
			t.Errorf("%s: %s, not %s", target, got, want)
		}
	}
}

func TestConcurrencySetting(t *testing.T) {
	for value, want := range map[string]int{"": 64, "0": 64, "-3": 64, "many": 64, "7": 7} {
		t.Setenv("IGNITE_MAX_CONCURRENCY", value)
		if got := concurrency(); got != want {
			t.Errorf("%q: %d, want %d", value, got, want)
		}
	}
}
