// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The style of a fleet's page and of its drawings. Colours are those of Okabe and Ito, which
/// people who do not tell red from green tell apart; dark mode takes lighter ones of the same hues.
/// bench/sim/plots.py takes drawings out of a page, with the first of the two styles.
#pragma once

namespace oriel::replay {

inline constexpr const char* fleet_style = R"css(
:root{color-scheme:light dark;--paper:#fff;--ink:#1d2329;--soft:#57606a;--rule:#d9dee3;--wash:#f5f7f9;
--blue:#0b68a8;--orange:#c2500a;--gray:#7b858f;--device:#0b5f97;--host:#63b2e0;--l3:#0a8262;--remote:#c77da3;--computed:#e3e7eb;
--device-ink:#fff;--host-ink:#10212d;--l3-ink:#fff;--remote-ink:#2b0f1e;--computed-ink:#1d2329}
@media(prefers-color-scheme:dark){:root{--paper:#0f1419;--ink:#e4e9ee;--soft:#9aa5b0;--rule:#2c343d;--wash:#171d24;
--blue:#5fb4ef;--orange:#f0954f;--gray:#8a949e;--device:#3d94d1;--host:#8ecbf0;--l3:#2fb38f;--remote:#d79bbb;--computed:#333c46;
--device-ink:#06121b;--host-ink:#06121b;--l3-ink:#04140f;--remote-ink:#200a15;--computed-ink:#e4e9ee}}
svg{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
svg text{fill:var(--ink);font-size:12px;font-variant-numeric:tabular-nums}
svg .title{font-size:13px;font-weight:600}
svg .name{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
svg .axis{fill:var(--soft);font-size:11px}
svg .grid{stroke:var(--rule);stroke-width:1}
svg .one{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3}
svg .range{stroke:var(--rule);stroke-width:4;stroke-linecap:round}
svg .p50{fill:var(--blue)}
svg .p90{fill:var(--paper);stroke:var(--ink);stroke-width:1.6}
svg .p99{fill:var(--orange)}
svg .better{fill:var(--blue);stroke:var(--blue)}
svg .worse{fill:var(--orange);stroke:var(--orange)}
svg .same{fill:var(--gray);stroke:var(--gray)}
svg .whisker{stroke-width:2.5}
svg .tier{stroke:var(--paper);stroke-width:1}
svg .device{fill:var(--device)}
svg .host{fill:var(--host)}
svg .l3{fill:var(--l3)}
svg .remote{fill:var(--remote)}
svg .computed{fill:var(--computed)}
svg .on{font-size:11px}
svg .device-ink{fill:var(--device-ink)}
svg .host-ink{fill:var(--host-ink)}
svg .l3-ink{fill:var(--l3-ink)}
svg .remote-ink{fill:var(--remote-ink)}
svg .computed-ink{fill:var(--computed-ink)}
svg .warm{fill:var(--wash)}
svg .band{fill:var(--blue);fill-opacity:.22}
svg .mean{fill:none;stroke:var(--blue);stroke-width:1.6;stroke-linejoin:round}
)css";

inline constexpr const char* page_style = R"css(
*{box-sizing:border-box}
svg{display:block;width:100%;height:auto;overflow:visible}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .2em;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:0 0 .3em;letter-spacing:-.005em}
p{margin:0 0 1em;max-width:72ch}
.file{color:var(--soft);overflow-wrap:anywhere}
.lede{font-size:1.1rem}
section{margin-top:48px}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:12px 28px;margin:24px 0 0;padding:16px 0;border-top:1px solid var(--rule);border-bottom:1px solid var(--rule)}
.facts dt{color:var(--soft);font-size:.8rem}
.facts dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.key{max-width:360px;margin:0 0 12px}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:28px 40px}
.panels>*{max-width:460px;min-width:0}
.scroll{overflow-x:auto;border:1px solid var(--rule);border-radius:8px}
table{border-collapse:separate;border-spacing:0;font-size:.86rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:9px 14px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule);vertical-align:top}
tr:last-child>*{border-bottom:0}
thead th{color:var(--soft);font-weight:500;vertical-align:bottom}
th:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}
tbody th{font-weight:600}
td small,th small{display:block;color:var(--soft);font-weight:400;font-size:.78rem}
td .better,td small.better{color:var(--blue)}
td .worse,td small.worse{color:var(--orange)}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,560px),1fr));gap:24px 40px;align-items:start}
footer{margin-top:56px;color:var(--soft);font-size:.86rem}
@media(max-width:600px){main{padding:24px 16px 48px}h1{font-size:1.45rem}.lede{font-size:1rem}section{margin-top:36px}th,td{padding:8px 10px}.facts{grid-template-columns:1fr 1fr;gap:10px 16px}}
@media print{section{break-inside:avoid}}
)css";

}  // namespace oriel::replay
