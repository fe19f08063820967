"""Buildpack builds by the CNB lifecycle: facts of an attempt → Job manifest, and its log → what went wrong. Pure."""
