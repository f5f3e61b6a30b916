"""The API as one self-contained HTML page with a form to try each route; nothing comes from elsewhere."""

from __future__ import annotations

import html
import importlib.metadata
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from slipstream.server.documentation import parameters
from slipstream.server.wire import MOST_BODY_BYTES

if TYPE_CHECKING:
    from slipstream.server.app import Route


def page(routes: Sequence[Route]) -> str:
    """The page of the routes."""
    about = f"A body holds at most {MOST_BODY_BYTES // 1024 // 1024} MiB."
    filled = _PAGE.replace("@VERSION@", importlib.metadata.version("slipstream")).replace("@BOUNDS@", about)
    return filled.replace("@ROUTES@", "".join(map(_section, routes)))


def _section(route: Route) -> str:
    about = route.about
    inputs = "".join(
        f'<label>{p["name"]} <input name="{p["name"]}" data-in="{p["in"]}"></label> '
        for p in parameters(route)
    )
    body = ""
    if "body" in about:
        body = f"<textarea rows=6>{html.escape(json.dumps(about['example'], indent=1))}</textarea>"
    scope = f"needs <b>{route.scope}</b>" if route.scope else "open"
    says = html.escape(f"{about['summary']}. {about.get('says', '')}")
    pattern = html.escape(route.pattern)
    return (
        f'<form data-method="{route.method}" data-path="{pattern}">'
        f"<h2><code>{route.method} {pattern}</code></h2><p>{says} <small>{scope}</small></p>"
        f"{inputs}{body}<button>Send</button><pre></pre></form>"
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>slipstream API</title>
<meta name="viewport" content="width=device-width">
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{font-size:1rem;margin:0} form{border-top:1px solid #ccc;padding:1rem 0}
textarea{display:block;width:100%;font:14px monospace;margin:.5rem 0}
pre{background:#f4f4f4;padding:.5rem;overflow:auto;max-height:24rem} pre:empty{display:none}
</style></head><body>
<h1>slipstream @VERSION@</h1>
<p>Machine-readable: <a href="openapi.json">openapi.json</a>. Errors are
<code>application/problem+json</code> with a <code>code</code> and a <code>hint</code>. @BOUNDS@</p>
<label>API key <input id="key" type="password" autocomplete="off"></label>
@ROUTES@
<script>
async function ask(form) {
  let path = '.' + form.dataset.path;
  const query = new URLSearchParams();
  for (const input of form.querySelectorAll('input')) {
    const value = input.value;
    if (input.dataset.in === 'path') path = path.replace('{' + input.name + '}', encodeURIComponent(value));
    else if (value) query.set(input.name, value);
  }
  const area = form.querySelector('textarea');
  const key = document.getElementById('key').value;
  const reply = await fetch(path + (query.size ? '?' + query : ''), {
    method: form.dataset.method,
    headers: key ? {authorization: 'Bearer ' + key} : {},
    body: area ? area.value : undefined,
  });
  const text = await reply.text();
  let shown = text;
  try { shown = JSON.stringify(JSON.parse(text), null, 1); } catch {}
  form.querySelector('pre').textContent = reply.status + '\\n' + shown;
}
for (const form of document.forms) {
  form.addEventListener('submit', event => { event.preventDefault(); ask(form); });
}
</script></body></html>
"""
