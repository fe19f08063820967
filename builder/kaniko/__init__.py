"""Dockerfile builds by Kaniko: facts of an attempt → Job manifest, and its log → what went wrong. Pure."""
