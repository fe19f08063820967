// Evaluates an expression over a JSON object: {"expression": …, "input": {…}} in, JSON out.
package main

import (
	"encoding/json"

	"ignite"

	"github.com/expr-lang/expr"
)

func main() {
	ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
		var asked struct {
			Expression string
			Input      map[string]any
		}
		if err := json.Unmarshal(payload, &asked); err != nil {
			return nil, err
		}
		program, err := expr.Compile(asked.Expression, expr.Env(asked.Input))
		if err != nil {
			return nil, err
		}
		result, err := expr.Run(program, asked.Input)
		if err != nil {
			return nil, err
		}
		return json.Marshal(result)
	})
}
