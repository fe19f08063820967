// One file: answers with what it was sent and who asked.
package main

import (
	"encoding/json"

	"ignite"
)

func main() {
	ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
		var in struct{ Name string }
		if err := json.Unmarshal(payload, &in); err != nil {
			return nil, err
		}
		return json.Marshal(map[string]string{"hello": in.Name, "execution": ctx.ExecutionID})
	})
}
