"""Style and script of the report: everything is in the one file, nothing is fetched."""

STYLE = """
:root{color-scheme:light dark;--ground:#fbfaf8;--card:#fff;--ink:#1d2329;--quiet:#69737d;--rule:#e4e1dc;--warn:#c2410c;
--s1:#2563a8;--s2:#d9722a;--s3:#2f8f6b;--s4:#8a5bb0;--s5:#b8902a;--s6:#9aa3ab}
@media(prefers-color-scheme:dark){:root{--ground:#14181c;--card:#1c2227;--ink:#e8ebee;--quiet:#98a3ad;--rule:#2e363d;
--warn:#fb923c;--s1:#6aa9e9;--s2:#f0955a;--s3:#5cc09a;--s4:#b891db;--s5:#dbb65a;--s6:#6f7a84}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}h1{font-size:28px;margin:0 0 2px;letter-spacing:-.01em}
h2{font-size:18px;margin:34px 0 12px}h3{font-size:14px;margin:0 0 8px;color:var(--quiet);font-weight:600}
p{margin:6px 0}.quiet{color:var(--quiet)}.state{display:inline-block;padding:1px 10px;border-radius:99px;font-size:13px;
font-weight:600;background:var(--s6);color:#fff;vertical-align:5px;margin-left:8px}.state.succeeded{background:var(--s3)}
.state.failed,.state.cancelled{background:var(--warn)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0}
.tile,.card,.chart{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 16px;margin:0}
.tile b{display:block;font-size:23px;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile span{color:var(--quiet);font-size:13px}.grid{display:grid;gap:14px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:14px}
.chart{position:relative;min-width:0}.chart figcaption{font-weight:600;font-size:14px;display:flex;flex-wrap:wrap;
gap:4px 14px;justify-content:space-between}.legend span{font-weight:400;font-size:12.5px;color:var(--quiet);
margin-left:12px;white-space:nowrap}.legend span::before{content:"";display:inline-block;width:14px;height:3px;
background:currentColor;margin-right:5px;vertical-align:3px}.legend .s1::before{background:var(--s1)}
.legend .s2::before{background:var(--s2)}.legend .s3::before{background:var(--s3)}
.legend .s4::before{background:var(--s4)}.legend .s5::before{background:var(--s5)}
svg{width:100%;height:auto;display:block;overflow:visible}svg text{font:11px system-ui,sans-serif;fill:var(--quiet)}
line.grid{stroke:var(--rule)}line.level{stroke:var(--s6);stroke-dasharray:5 4}line.marker{stroke:var(--warn);
stroke-width:1.3;stroke-dasharray:3 3}svg text.marker{fill:var(--warn);font-weight:600}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.line.s1,.error.s1{stroke:var(--s1)}
.line.s2,.error.s2{stroke:var(--s2)}.line.s3,.error.s3{stroke:var(--s3)}.line.s4,.error.s4{stroke:var(--s4)}
.line.s5,.error.s5{stroke:var(--s5)}.error{stroke-width:1.4}.dot.s1,.fill.s1{fill:var(--s1);background:var(--s1)}
.dot.s2,.fill.s2{fill:var(--s2);background:var(--s2)}.dot.s3,.fill.s3{fill:var(--s3);background:var(--s3)}
.dot.s4,.fill.s4{fill:var(--s4);background:var(--s4)}.dot.s5,.fill.s5{fill:var(--s5);background:var(--s5)}
.fill.s6{background:var(--s6)}.fill.warn{background:var(--warn)}
.pointer{stroke:var(--quiet);stroke-width:1;visibility:hidden}.chart output{position:absolute;right:16px;bottom:44px;
background:var(--ground);border:1px solid var(--rule);border-radius:6px;padding:3px 9px;font-size:12.5px;
font-variant-numeric:tabular-nums;visibility:hidden;pointer-events:none}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:5px 12px 5px 0;border-bottom:1px solid var(--rule);vertical-align:top}
thead th{color:var(--quiet);font-weight:600;font-size:12.5px;white-space:nowrap}tbody th{font-weight:500}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tr:last-child>*{border-bottom:0}
.bars th{width:1%;white-space:nowrap;font-weight:400}.bars td:nth-child(2){width:99%}.bars i{display:block;height:13px;
border-radius:3px;margin-top:5px;min-width:2px}.stack{display:flex;height:26px;border-radius:6px;overflow:hidden;
gap:1px}.stack i{display:block}.stack-legend{list-style:none;margin:10px 0 0;padding:0;display:flex;flex-wrap:wrap;
gap:4px 20px;font-size:13.5px}.stack-legend b{display:inline-block;width:11px;height:11px;border-radius:3px;
margin-right:6px;vertical-align:-1px}.stack-legend em{color:var(--quiet);font-style:normal}
code,pre{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}code{overflow-wrap:anywhere}
pre{overflow:auto;max-height:520px;margin:8px 0 0}details summary{cursor:pointer;font-weight:600}
footer{margin-top:40px;color:var(--quiet);font-size:13px}
@media(max-width:560px){main{padding:18px 12px 40px}h1{font-size:23px}.tile b{font-size:19px}
.bars th{white-space:normal}svg text{font-size:15px}}
"""

SCRIPT = """
for (const figure of document.querySelectorAll('.chart[data-chart]')) {
  const data = JSON.parse(figure.dataset.chart), svg = figure.querySelector('svg');
  const pointer = figure.querySelector('.pointer'), output = figure.querySelector('output');
  const left = 56, right = 704;
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect(), place = (event.clientX - box.left) / box.width * 720;
    const share = Math.min(1, Math.max(0, (place - left) / (right - left)));
    const x = data.x[0] + share * (data.x[1] - data.x[0]);
    const lines = data.series.map(series => {
      let best = 0;
      series.x.forEach((value, index) => { if (Math.abs(value - x) < Math.abs(series.x[best] - x)) best = index; });
      return `${series.name} at ${series.x[best]}: ${series.y[best]}`;
    });
    output.textContent = lines.join('  \\u00b7  ');
    pointer.setAttribute('x1', left + share * (right - left));
    pointer.setAttribute('x2', left + share * (right - left));
    pointer.style.visibility = output.style.visibility = 'visible';
  });
  svg.addEventListener('pointerleave', () => { pointer.style.visibility = output.style.visibility = 'hidden'; });
}
"""
