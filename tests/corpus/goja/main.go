// Evaluates JavaScript by an interpreter in Go.
package main

import (
	"ignite"

	"github.com/dop251/goja"
)

func main() {
	ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
		value, err := goja.New().RunString(string(payload))
		if err != nil {
			return nil, err
		}
		return []byte(value.String()), nil
	})
}
