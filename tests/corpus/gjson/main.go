// Answers a gjson path: {"path": …, "json": …} in, the value's JSON out, indented by a module that gjson requires.
package main

import (
	"errors"

	"ignite"

	"github.com/tidwall/gjson"
)

func main() {
	ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
		if !gjson.ValidBytes(payload) {
			return nil, errors.New("the payload is no JSON")
		}
		asked := gjson.GetManyBytes(payload, "path", "json")
		return []byte(asked[1].Get(asked[0].String()).Raw), nil
	})
}
