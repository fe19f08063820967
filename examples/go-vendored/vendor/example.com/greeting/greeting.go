// Package greeting greets.
package greeting

// To greets somebody by name.
func To(name string) string { return "Hello, " + name + "!" }
