//! Nothing: this package names what builds add to a manifest.
