// Evaluates a CEL expression over a JSON object: {"expression": …, "input": {…}} in, JSON out.
package main

import (
	"encoding/json"
	"reflect"

	"ignite"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

func main() {
	env, err := cel.NewEnv(cel.Variable("input", cel.DynType), ext.Strings(), ext.Sets())
	if err != nil {
		panic(err)
	}
	ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
		var asked struct {
			Expression string
			Input      map[string]any
		}
		if err := json.Unmarshal(payload, &asked); err != nil {
			return nil, err
		}
		checked, issues := env.Compile(asked.Expression)
		if issues.Err() != nil {
			return nil, issues.Err()
		}
		program, err := env.Program(checked)
		if err != nil {
			return nil, err
		}
		result, _, err := program.Eval(map[string]any{"input": asked.Input})
		if err != nil {
			return nil, err
		}
		value, err := result.ConvertToNative(reflect.TypeOf(&structpb.Value{}))
		if err != nil {
			return nil, err
		}
		text, err := protojson.Marshal(value.(*structpb.Value))
		if err != nil {
			return nil, err
		}
		// protojson varies its white space on purpose; an answer must not.
		var plain any
		if err := json.Unmarshal(text, &plain); err != nil {
			return nil, err
		}
		return json.Marshal(plain)
	})
}
