// Package greet is the other module of the workspace.
package greet

// To says hello.
func To(name string) string { return "hello " + name }
