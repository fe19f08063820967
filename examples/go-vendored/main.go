// A module whose dependency is vendored: built without any network.
package main

import (
	"ignite"

	"example.com/greeting"
)

func main() {
	ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
		return []byte(greeting.To(string(payload)) + "\n"), nil
	})
}
