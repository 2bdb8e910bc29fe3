// A small molecule viewer on a 2-D canvas: layers of balls and sticks, turned by hand, played in the browser.
// No dependency, no network. Used as an anywidget module (default export) and in stand-alone pages (mount).

const SVG = {
  play: '<path d="M4 2.5v11l9-5.5z"/>',
  pause: '<path d="M4 2.5h3v11H4zM9.5 2.5h3v11h-3z"/>',
  home: '<path d="M8 2 1.5 8H4v5.5h3V10h2v3.5h3V8h2.5z"/>',
  label: '<path d="M2 3h12v2.2h-4.7V14H6.7V5.2H2z"/>',
};
const FOG_STEPS = 8, PERSPECTIVE = 0.05, SPEEDS = [5, 10, 20, 40];

const clamp = (v, lo, hi) => Math.min(hi, Math.max(lo, v));
const rgbOf = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const mix = (a, b, t) => a.map((v, k) => Math.round(v + (b[k] - v) * t));
const css = (c, alpha = 1) => `rgba(${c[0]},${c[1]},${c[2]},${alpha})`;

function multiply(a, b) {
  const out = new Array(9).fill(0);
  for (let i = 0; i < 3; i++) for (let j = 0; j < 3; j++) for (let k = 0; k < 3; k++) out[3 * i + j] += a[3 * i + k] * b[3 * k + j];
  return out;
}
function turn(dx, dy, dz = 0) {
  const [cx, sx, cy, sy, cz, sz] = [Math.cos(dy), Math.sin(dy), Math.cos(dx), Math.sin(dx), Math.cos(dz), Math.sin(dz)];
  const about_x = [1, 0, 0, 0, cx, -sx, 0, sx, cx], about_y = [cy, 0, sy, 0, 1, 0, -sy, 0, cy], about_z = [cz, -sz, 0, sz, cz, 0, 0, 0, 1];
  return multiply(about_z, multiply(about_x, about_y));
}

// Coordinates travel as 16-bit integers in steps of `step` A.
function decodeLayer(layer, bytes) {
  const whole = new Int16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  return { ...layer, xyz: whole, count: layer.radii.length, frames: Math.max(1, whole.length / (3 * layer.radii.length)), rgb: layer.colors.map(rgbOf) };
}

// Is the page behind `el` dark? Looks up the first ancestor with a background.
function pageIsDark(el) {
  for (let node = el; node; node = node.parentElement) {
    const c = (getComputedStyle(node).backgroundColor.match(/[\d.]+/g) || []).map(Number);
    if (c.length >= 3 && (c.length < 4 || c[3] > 0.5)) return 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2] < 110;
  }
  return false;
}

// Shaded balls are drawn once per colour, fog step and opacity class, and then copied.
function makeSprites() {
  const cache = new Map();
  return (rgb, fog, background, veil) => {
    const key = `${rgb}|${fog}|${background}|${veil}`;
    if (cache.has(key)) return cache.get(key);
    if (cache.size > 400) cache.clear();
    const size = 128, c = document.createElement("canvas");
    c.width = c.height = size;
    const g = c.getContext("2d"), r = size / 2 - 1, base = mix(rgb, background, fog / FOG_STEPS * 0.55);
    const body = g.createRadialGradient(size * 0.36, size * 0.32, r * 0.05, size / 2, size / 2, r);
    if (veil) {
      body.addColorStop(0, css(mix(base, [255, 255, 255], 0.55), 0.55));
      body.addColorStop(0.35, css(base, 0.5));
      body.addColorStop(0.8, css(base, 0.72));
      body.addColorStop(1, css(mix(base, [0, 0, 0], 0.25), 1));
    } else {
      body.addColorStop(0, css(mix(base, [255, 255, 255], 0.75)));
      body.addColorStop(0.18, css(mix(base, [255, 255, 255], 0.3)));
      body.addColorStop(0.55, css(base));
      body.addColorStop(0.9, css(mix(base, [0, 0, 0], 0.38)));
      body.addColorStop(1, css(mix(base, [0, 0, 0], 0.55)));
    }
    g.fillStyle = body;
    g.beginPath();
    g.arc(size / 2, size / 2, r, 0, 2 * Math.PI);
    g.fill();
    cache.set(key, c);
    return c;
  };
}

const STYLE = `
.mlmd-viewer{--line:rgba(128,128,128,.28);--ink:#222;--soft:#666;--paper:#fafbfc;--paper2:#e9edf2;position:relative;display:inline-block;max-width:100%;
 border:1px solid var(--line);border-radius:10px;overflow:hidden;color:var(--ink);background:var(--paper);font:13px/1.35 system-ui,-apple-system,"Segoe UI",sans-serif}
.mlmd-viewer.dark{--ink:#e8e8e8;--soft:#a8a8a8;--paper:#16191d;--paper2:#24292f}
.mlmd-viewer canvas{display:block;width:100%;height:auto;touch-action:none;cursor:grab;background:radial-gradient(circle at 45% 35%,var(--paper),var(--paper2));outline:none}
.mlmd-viewer canvas:active{cursor:grabbing}
.mlmd-viewer canvas:focus-visible{box-shadow:inset 0 0 0 2px #0072B2}
.mlmd-viewer .bar{display:flex;flex-wrap:wrap;align-items:center;gap:8px;padding:6px 10px;border-top:1px solid var(--line)}
.mlmd-viewer button{width:26px;height:26px;padding:0;border:1px solid var(--line);border-radius:6px;background:transparent;color:inherit;cursor:pointer;display:inline-flex;align-items:center;justify-content:center}
.mlmd-viewer button:hover,.mlmd-viewer button.on{background:rgba(0,114,178,.16)}
.mlmd-viewer button svg{width:14px;height:14px;fill:currentColor}
.mlmd-viewer input[type=range]{accent-color:#0072B2}
.mlmd-viewer .time{flex:1 1 100px;min-width:70px}
.mlmd-viewer .count{color:var(--soft);font-variant-numeric:tabular-nums;white-space:nowrap}
.mlmd-viewer select{border:1px solid var(--line);border-radius:6px;background:var(--paper);color:inherit;font:inherit;height:26px}
.mlmd-viewer .layer{display:inline-flex;align-items:center;gap:5px;color:var(--ink);white-space:nowrap}
.mlmd-viewer .layer input[type=range]{width:58px}
.mlmd-viewer .legend{position:absolute;left:10px;top:8px;pointer-events:none;display:flex;flex-direction:column;gap:2px;font-size:12px}
.mlmd-viewer .legend i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:6px;vertical-align:-1px}
.mlmd-viewer .title{position:absolute;right:12px;top:8px;pointer-events:none;font-weight:600}
.mlmd-viewer .hint{position:absolute;pointer-events:none;padding:2px 7px;border-radius:5px;background:rgba(20,20,20,.85);color:#fff;font-size:12px;white-space:nowrap;display:none}
`;

function element(tag, parent, attributes = {}, html = "") {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.innerHTML = html;
  parent.appendChild(e);
  return e;
}

// Build the viewer in `host`. scene: {layers, step, width, height, title, legend, rotation}; bytes: one Uint8Array or DataView per layer.
// hooks: {frame(i), picked({layer, ball})} tell the outside; the result has setFrame(i), draw(), stop().
export function mount(host, scene, bytes, hooks = {}) {
  const root = element("div", host, { class: "mlmd-viewer", style: `width:${scene.width}px` });
  element("style", root, {}, STYLE);
  const dark = pageIsDark(host);
  root.classList.toggle("dark", dark);
  const background = dark ? [28, 32, 37] : [240, 243, 247];
  const layers = scene.layers.map((l, k) => decodeLayer(l, bytes[k]));
  const frames = Math.max(...layers.map((l) => l.frames));
  const sprite = makeSprites();
  const { width, height, step } = scene;
  const home = scene.rotation || [1, 0, 0, 0, 1, 0, 0, 0, 1];
  const s = { rotation: home.slice(), zoom: 1, pan: [0, 0], frame: 0, playing: false, rate: 10, names: scene.names !== false, timer: 0, hits: [] };

  const canvas = element("canvas", root, { tabindex: "0", role: "img", "aria-label": scene.title || "molecule; drag to turn, wheel to zoom" });
  const ratio = Math.max(1, Math.min(2, window.devicePixelRatio || 1));
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.aspectRatio = `${width} / ${height}`;
  const g = canvas.getContext("2d");
  const hint = element("div", root, { class: "hint" });
  if (scene.title) element("div", root, { class: "title" }).textContent = scene.title;
  if (scene.legend && scene.legend.length) {
    const box = element("div", root, { class: "legend" });
    for (const [name, color] of scene.legend) {
      const row = element("span", box);
      element("i", row).style.background = color;
      row.append(name);
    }
  }

  // Middle and reach of everything in all frames (sampled), so that nothing leaves the picture while it plays.
  const centre = [0, 0, 0], lo = [1e9, 1e9, 1e9], hi = [-1e9, -1e9, -1e9];
  const each = (visit) => layers.forEach((l) => {
    for (let f = 0; f < l.frames; f += Math.max(1, Math.floor(l.frames / 24)))
      for (let i = 0; i < l.count; i++) visit([0, 1, 2].map((k) => l.xyz[3 * (f * l.count + i) + k] * step), l.radii[i]);
  });
  each((p) => p.forEach((v, k) => { lo[k] = Math.min(lo[k], v); hi[k] = Math.max(hi[k], v); }));
  lo.forEach((v, k) => { centre[k] = (v + hi[k]) / 2; });
  let reach = 1, across = 1, upright = 1;
  each((p, r) => {
    const d = p.map((v, k) => v - centre[k]);
    reach = Math.max(reach, Math.hypot(...d) + r);
    across = Math.max(across, Math.abs(home[0] * d[0] + home[1] * d[1] + home[2] * d[2]) + r);
    upright = Math.max(upright, Math.abs(home[3] * d[0] + home[4] * d[1] + home[5] * d[2]) + r);
  });
  const fit = () => 0.94 * Math.min(width / 2 / across, height / 2 / upright);

  function project(layer, i) {
    const f = Math.min(s.frame, layer.frames - 1), at = 3 * (f * layer.count + i), m = s.rotation;
    const [x, y, z] = [0, 1, 2].map((k) => layer.xyz[at + k] * step - centre[k]);
    const depth = m[6] * x + m[7] * y + m[8] * z;
    const scale = fit() * s.zoom * (1 + PERSPECTIVE * depth / reach);
    return { x: width / 2 + s.pan[0] + scale * (m[0] * x + m[1] * y + m[2] * z), y: height / 2 + s.pan[1] - scale * (m[3] * x + m[4] * y + m[5] * z), z: depth, scale };
  }

  const fogOf = (z) => clamp(Math.round(FOG_STEPS * (0.5 - 0.5 * z / reach)), 0, FOG_STEPS);

  function drawStick(t) {
    const shade = mix(t.rgb, background, fogOf(t.z) / FOG_STEPS * 0.55), w = 2 * t.radius * t.scale;
    g.globalAlpha = t.alpha;
    g.lineCap = "round";
    for (const [part, color] of [[1, mix(shade, [0, 0, 0], 0.45)], [0.78, shade], [0.3, mix(shade, [255, 255, 255], 0.35)]]) {
      g.strokeStyle = css(color);
      g.lineWidth = Math.max(0.8, w * part);
      const off = part < 0.5 ? w * 0.16 : 0;
      g.beginPath();
      g.moveTo(t.x0 - off, t.y0 - off);
      g.lineTo(t.x1 - off, t.y1 - off);
      g.stroke();
    }
  }

  function drawBall(t) {
    const r = t.radius * t.scale;
    g.globalAlpha = t.alpha;
    g.drawImage(sprite(t.rgb, fogOf(t.z), background, t.alpha < 0.999), t.x - r, t.y - r, 2 * r, 2 * r);
  }

  function drawLabel(t) {
    g.globalAlpha = 1;
    g.font = "600 12px system-ui, sans-serif";
    g.textAlign = "center";
    g.textBaseline = "middle";
    g.lineWidth = 3;
    g.lineJoin = "round";
    g.strokeStyle = dark ? "rgba(20,22,26,.85)" : "rgba(255,255,255,.9)";
    g.fillStyle = dark ? "#fff" : "#111";
    g.strokeText(t.label, t.x, t.y);
    g.fillText(t.label, t.x, t.y);
  }

  function draw() {
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    const things = [], labels = [];
    s.hits = [];
    layers.forEach((layer, number) => {
      if (!layer.visible || layer.opacity <= 0) return;
      const p = Array.from({ length: layer.count }, (_, i) => project(layer, i));
      const veil = layer.opacity < 0.999;
      p.forEach((q, i) => {
        things.push({ draw: drawBall, z: q.z + (veil ? 0 : 0.05), x: q.x, y: q.y, scale: q.scale, radius: layer.radii[i], rgb: layer.rgb[i], alpha: layer.opacity });
        s.hits.push({ x: q.x, y: q.y, z: q.z, r: layer.radii[i] * q.scale, layer: number, ball: i, label: layer.labels[i] });
        if (layer.labelled && s.names) labels.push({ x: q.x, y: q.y, label: layer.labels[i] });
      });
      if (layer.stick > 0) for (const [i, j] of layer.bonds) {
        const [a, b] = [p[i], p[j]], length = Math.hypot((b.x - a.x) / a.scale, (b.y - a.y) / a.scale, b.z - a.z) || 1;
        // A stick begins inside the surface of its ball, else its end would show through the ball in front of it.
        const start = (end, other, k) => { const t = veil ? 0 : Math.min(0.45, 0.85 * layer.radii[k] / length); return { x: end.x + t * (other.x - end.x), y: end.y + t * (other.y - end.y) }; };
        const mid = { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, z: (a.z + b.z) / 2 };
        for (const [end, other, k] of [[a, b, i], [b, a, j]]) {
          const from = start(end, other, k);
          things.push({ draw: drawStick, z: (end.z + mid.z) / 2, x0: from.x, y0: from.y, x1: mid.x, y1: mid.y, scale: end.scale,
            radius: veil ? layer.stick * 0.4 : layer.stick, rgb: veil ? (dark ? [190, 190, 190] : [90, 90, 95]) : layer.rgb[k], alpha: 1 });
        }
      }
    });
    things.sort((a, b) => a.z - b.z).forEach((t) => t.draw(t));
    labels.forEach(drawLabel);
    g.globalAlpha = 1;
    if (count) count.textContent = `${s.frame + 1} / ${frames}`;
    if (slider && Number(slider.value) !== s.frame) slider.value = s.frame;
  }

  function setFrame(i, tell = true) {
    const next = ((Math.round(i) % frames) + frames) % frames;
    if (next === s.frame) return;
    s.frame = next;
    draw();
    if (tell && hooks.frame) hooks.frame(next);
  }

  // Controls.
  const bar = element("div", root, { class: "bar" });
  let slider = null, count = null, playButton = null;
  const button = (icon, name, act) => {
    const b = element("button", bar, { type: "button", title: name, "aria-label": name }, `<svg viewBox="0 0 16 16">${SVG[icon]}</svg>`);
    b.addEventListener("click", act);
    return b;
  };
  function play(on) {
    s.playing = on;
    clearInterval(s.timer);
    // The kernel is told twice a second at most while it plays; every frame would flood it.
    let told = 0;
    if (on) s.timer = setInterval(() => {
      const now = performance.now(), tell = now - told > 500;
      if (tell) told = now;
      setFrame(s.frame + 1, tell);
    }, 1000 / s.rate);
    else if (hooks.frame) hooks.frame(s.frame);
    playButton.innerHTML = `<svg viewBox="0 0 16 16">${SVG[on ? "pause" : "play"]}</svg>`;
    playButton.setAttribute("aria-label", on ? "pause" : "play");
  }
  if (frames > 1) {
    playButton = button("play", "play", () => play(!s.playing));
    slider = element("input", bar, { type: "range", class: "time", min: 0, max: frames - 1, value: 0, "aria-label": "frame" });
    slider.addEventListener("input", () => setFrame(Number(slider.value)));
    count = element("span", bar, { class: "count" });
    const speed = element("select", bar, { "aria-label": "frames per second" }, SPEEDS.map((v) => `<option value="${v}"${v === s.rate ? " selected" : ""}>${v}/s</option>`).join(""));
    speed.addEventListener("change", () => { s.rate = Number(speed.value); if (s.playing) play(true); });
  }
  button("home", "reset the view", () => { s.rotation = home.slice(); s.zoom = 1; s.pan = [0, 0]; draw(); });
  const names = button("label", "labels", () => { s.names = !s.names; names.classList.toggle("on", s.names); draw(); });
  names.classList.toggle("on", s.names);
  for (const layer of layers) {
    const row = element("label", bar, { class: "layer" });
    const box = element("input", row, { type: "checkbox" });
    box.checked = layer.visible;
    box.addEventListener("change", () => { layer.visible = box.checked; draw(); });
    row.append(layer.name);
    const strength = element("input", row, { type: "range", min: 5, max: 100, value: Math.round(100 * layer.opacity), "aria-label": `opacity of ${layer.name}`, title: "opacity" });
    strength.addEventListener("input", () => { layer.opacity = Number(strength.value) / 100; draw(); });
  }

  // Mouse, touch, keyboard.
  const grip = new Map();
  const inside = (e) => { const b = canvas.getBoundingClientRect(); return [(e.clientX - b.left) * width / b.width, (e.clientY - b.top) * height / b.height]; };
  const under = ([x, y]) => s.hits.filter((h) => Math.hypot(h.x - x, h.y - y) < Math.max(5, h.r)).sort((a, b) => (a.r - b.r) || (b.z - a.z))[0];
  let moved = 0;
  canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); grip.set(e.pointerId, inside(e)); moved = 0; canvas.focus({ preventScroll: true }); });
  canvas.addEventListener("pointermove", (e) => {
    const at = inside(e), old = grip.get(e.pointerId);
    if (!old) {
      const h = under(at);
      hint.style.display = h ? "block" : "none";
      if (h) {
        const box = canvas.getBoundingClientRect();
        hint.textContent = h.label + (layers.length > 1 ? ` (${layers[h.layer].name})` : "");
        hint.style.left = `${at[0] * box.width / width + 12}px`;
        hint.style.top = `${at[1] * box.height / height + 12}px`;
      }
      return;
    }
    const [dx, dy] = [at[0] - old[0], at[1] - old[1]];
    moved += Math.abs(dx) + Math.abs(dy);
    if (grip.size === 2) {
      const other = [...grip.entries()].find(([id]) => id !== e.pointerId)[1];
      s.zoom = clamp(s.zoom * Math.hypot(at[0] - other[0], at[1] - other[1]) / Math.max(1, Math.hypot(old[0] - other[0], old[1] - other[1])), 0.2, 12);
    } else if (e.shiftKey || e.buttons === 2) s.pan = [s.pan[0] + dx, s.pan[1] + dy];
    else s.rotation = multiply(turn(0.01 * dx, 0.01 * dy), s.rotation);
    grip.set(e.pointerId, at);
    draw();
  });
  const release = (e) => {
    if (e.type === "pointerup" && moved < 4 && hooks.picked) { const h = under(inside(e)); if (h) hooks.picked({ layer: layers[h.layer].name, ball: h.ball }); }
    grip.delete(e.pointerId);
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { hint.style.display = "none"; });
  canvas.addEventListener("contextmenu", (e) => e.preventDefault());
  canvas.addEventListener("wheel", (e) => { e.preventDefault(); s.zoom = clamp(s.zoom * Math.exp(-0.0012 * e.deltaY), 0.2, 12); draw(); }, { passive: false });
  canvas.addEventListener("keydown", (e) => {
    const act = { ArrowRight: () => setFrame(s.frame + 1), ArrowLeft: () => setFrame(s.frame - 1), " ": () => playButton && play(!s.playing),
      "+": () => { s.zoom *= 1.15; draw(); }, "-": () => { s.zoom /= 1.15; draw(); } }[e.key];
    if (act) { e.preventDefault(); e.stopPropagation(); act(); }
  });
  draw();
  if (scene.autoplay && playButton && !matchMedia("(prefers-reduced-motion: reduce)").matches) play(true);
  return { setFrame, draw, stop: () => clearInterval(s.timer) };
}

function render({ model, el }) {
  let view = null;
  const build = () => {
    if (view) view.stop();
    el.replaceChildren();
    view = mount(el, model.get("scene"), model.get("coordinates"), {
      frame: (i) => { if (model.get("frame") !== i) { model.set("frame", i); model.save_changes(); } },
      picked: (p) => { model.set("picked", p); model.save_changes(); },
    });
    view.setFrame(model.get("frame"), false);
  };
  const follow = () => view.setFrame(model.get("frame"), false);
  build();
  model.on("change:scene", build);
  model.on("change:frame", follow);
  return () => { view.stop(); model.off("change:scene", build); model.off("change:frame", follow); };
}

export default { render };
