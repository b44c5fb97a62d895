"""Models over HTTP: an API that clients of OpenAI's completions speak, and a page. Needs the extra `serve`."""
