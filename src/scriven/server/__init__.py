"""Serves models over HTTP: an OpenAI-compatible completions API, and a page. Needs the extra `serve`."""
