"""The page's look: light and dark by the reader's setting, one column on a phone."""

__all__ = ["STYLE"]

STYLE = """
:root { --ink: #1b1f24; --faint: #59636e; --line: #d1d9e0; --page: #ffffff; --card: #f6f8fa;
  --pass: #1a7f37; --fail: #cf222e; --inconclusive: #9a6700; --a: #0969da; --b: #8250df; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --faint: #9198a1; --line: #3d444d; --page: #0d1117;
  --card: #151b23; --pass: #3fb950; --fail: #f85149; --inconclusive: #d29922; --a: #58a6ff; --b: #bc8cff; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .2rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.verdict { border-left: .5rem solid var(--line); background: var(--card); padding: .8rem 1rem; border-radius: .3rem; }
.verdict.pass { border-color: var(--pass); } .verdict.fail { border-color: var(--fail); }
.verdict.inconclusive { border-color: var(--inconclusive); }
.word { font-weight: 700; text-transform: uppercase; white-space: nowrap; }
.pass > .word, .word.pass { color: var(--pass); } .fail > .word, .word.fail { color: var(--fail); }
.inconclusive > .word, .word.inconclusive { color: var(--inconclusive); }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 100%; }
caption { text-align: left; color: var(--faint); padding-bottom: .3rem; max-width: calc(100vw - 2rem); }
th { white-space: nowrap; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: normal; }
.scroll td:last-child:not(.whole) { min-width: 9rem; } .scroll td:first-child:not(.whole) { min-width: 7rem; }
td { overflow-wrap: anywhere; min-width: 3.5rem; max-width: 28rem; } .whole { white-space: nowrap; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: .8rem 0; } figcaption, .faint { color: var(--faint); font-size: .9rem; }
svg { display: block; width: 100%; height: auto; max-height: 22rem; } figure > svg { max-width: 36rem; }
svg text { font: 12px system-ui, sans-serif; fill: var(--faint); }
svg text.on { fill: var(--page); pointer-events: none; }
.axis { stroke: var(--line); stroke-width: 1; } .bar { fill: var(--a); } .bar.b { fill: var(--b); }
.bar.faded { opacity: .45; }
.bar.fail { fill: var(--fail); } .bar.pass { fill: var(--pass); } .bar.inconclusive { fill: var(--inconclusive); }
.line { fill: none; stroke: var(--a); stroke-width: 1.5; } .dot { fill: var(--a); } .dot.fail { fill: var(--fail); }
.line.b { stroke: var(--b); stroke-opacity: .5; } .dot.b { fill: var(--b); }
.cross { stroke: var(--fail); stroke-width: 2; fill: none; }
.mark { stroke: var(--fail); stroke-width: 9; opacity: .18; }
.limit { stroke: var(--fail); stroke-width: 1.5; stroke-dasharray: 4 3; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: .8rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .3rem; padding: .6rem; }
.card img { display: block; width: 100%; height: auto; }
.card table { font-size: .9rem; } .card td:first-child { width: 100%; } .card td { white-space: normal; }
.card td + td { white-space: nowrap; } .card td:last-child, .card th:last-child { padding-right: 0; }
 .card.wide { grid-column: span 2; }
.shot { position: relative; overflow: hidden; border-radius: .2rem; margin-bottom: .4rem; background: #808080; }
.shot .over { position: absolute; inset: 0; width: 100%; height: 100%; max-height: none; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; } .region { image-rendering: pixelated; }
.found { fill: none; vector-effect: non-scaling-stroke; }
.found.theirs { stroke: #0072b2; stroke-width: 5; stroke-opacity: .75; }
.found.ours { stroke: #ff9e1b; stroke-width: 1.8; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 1.5rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .3rem 0; }
.key { display: inline-block; width: .9rem; height: .9rem; border-radius: .15rem; vertical-align: -.1rem; }
.key.theirs { border: .25rem solid #0072b2; } .key.ours { border: .12rem solid #ff9e1b; }
.key.differs { background: #ff003c; } .key.a { background: var(--a); } .key.b { background: var(--b); }
@media (max-width: 40rem) { .card.wide { grid-column: auto; } .scroll td:last-child:not(.whole) { min-width: 13rem; }
  .scroll td:first-child:not(.whole) { min-width: 8.5rem; } }
@media (max-width: 30rem) { svg.plot text { font-size: 14px; } }
pre { background: var(--card); padding: .6rem; overflow-x: auto; white-space: pre-wrap; border-radius: .3rem; }
pre span { display: inline-block; max-width: 100%; }
summary { cursor: pointer; color: var(--a); }
:focus-visible { outline: 2px solid var(--a); outline-offset: 2px; }
"""
