// The conformance app of the Go SDK (see ../README.md).
package main

import (
	"encoding/json"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"ignite"
)

var active atomic.Int64

func main() {
	ignite.Start(handler)
}

func handler(payload []byte, ctx *ignite.Context) ([]byte, error) {
	switch ctx.Path {
	case "/echo":
		return payload, nil
	case "/ctx":
		return json.Marshal(map[string]string{
			"execution_id":    ctx.ExecutionID,
			"function_id":     ctx.FunctionID,
			"organization_id": ctx.OrganizationID,
		})
	case "/fail":
		return nil, errors.New("deliberately")
	case "/panic":
		panic("deliberately")
	case "/sleep":
		seen := active.Add(1)
		defer active.Add(-1)
		milliseconds, err := strconv.Atoi(ctx.Query)
		time.Sleep(time.Duration(milliseconds) * time.Millisecond)
		return []byte(`{"active": ` + strconv.FormatInt(seen, 10) + `}`), err
	}
	return json.Marshal(map[string]string{
		"method": ctx.Method, "path": ctx.Path, "query": ctx.Query, "test": ctx.Headers.Get("x-test"),
	})
}
