// A generator that draws in the page. The same text runs twice: in the page, where it minds the sliders, and in a worker made of it,
// which draws. `explorer.py` has folded all constant factors into the weights, so that StyleGAN2, StyleGAN1 and DCGAN are one list of
// layers here. Maps [C, R, R] lie in a border of zeros, as C squares of (R + 2) x (R + 2).
"use strict";

// --- Weights ---------------------------------------------------------------------------------------------------------------------

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

function fromHalves(text) {
  const power = Array.from({ length: 32 }, (_, e) => 2 ** (Math.max(e, 1) - 25));
  return Float64Array.from(new Uint16Array(bytes(text)), (half) => {
    const e = (half >> 10) & 31, size = power[e] * ((half & 1023) + (e ? 1024 : 0));
    return half >> 15 ? -size : size;
  });
}

// --- Layers ----------------------------------------------------------------------------------------------------------------------

/** matrix [n, w_dim + 1] times (w, 1): an affine layer. */
function affine(matrix, w) {
  const width = w.length + 1, out = new Float64Array(matrix.length / width);
  for (let n = 0; n < out.length; n++) {
    let sum = matrix[n * width + width - 1];
    for (let k = 0; k < w.length; k++) sum += matrix[n * width + k] * w[k];
    out[n] = sum;
  }
  return out;
}

/** Convolution with weights [O, I, 3, 3]: the window slides along a row, so each pixel is loaded three times. */
function conv(x, weight, I, O, R) {
  const P = R + 2, y = new Float64Array(O * P * P);
  for (let o = 0; o < O; o++)
    for (let i = 0; i < I; i++) {
      const k = (o * I + i) * 9;
      const k0 = weight[k], k1 = weight[k + 1], k2 = weight[k + 2], k3 = weight[k + 3], k4 = weight[k + 4];
      const k5 = weight[k + 5], k6 = weight[k + 6], k7 = weight[k + 7], k8 = weight[k + 8];
      for (let row = 0; row < R; row++) {
        let top = (i * P + row) * P, mid = top + P, low = mid + P, to = (o * P + row + 1) * P + 1;
        let a = x[top++], b = x[top++], d = x[mid++], e = x[mid++], g = x[low++], h = x[low++];
        for (const end = to + R; to < end; to++) {
          const c = x[top++], f = x[mid++], j = x[low++];
          y[to] += k0 * a + k1 * b + k2 * c + k3 * d + k4 * e + k5 * f + k6 * g + k7 * h + k8 * j;
          a = b; b = c; d = e; e = f; g = h; h = j;
        }
      }
    }
  return y;
}

/** Transposed convolution with stride 2: every pixel adds weights [O, I, K, K], K = 3 or 4, times itself at (2 row, 2 column).
 * Gathered four output pixels at once; a 3 x 3 kernel lacks the last row and column. No border: O squares of 2 R + 2. */
function convUp(x, weight, I, O, R, K) {
  const P = R + 2, S = 2 * R + 2, y = new Float64Array(O * S * S), at = (k, r, c) => (r < K && c < K ? weight[k + r * K + c] : 0);
  for (let o = 0; o < O; o++)
    for (let i = 0; i < I; i++) {
      const k = (o * I + i) * K * K;
      const k00 = at(k, 0, 0), k01 = at(k, 0, 1), k02 = at(k, 0, 2), k03 = at(k, 0, 3), k10 = at(k, 1, 0), k11 = at(k, 1, 1);
      const k12 = at(k, 1, 2), k13 = at(k, 1, 3), k20 = at(k, 2, 0), k21 = at(k, 2, 1), k22 = at(k, 2, 2), k23 = at(k, 2, 3);
      const k30 = at(k, 3, 0), k31 = at(k, 3, 1), k32 = at(k, 3, 2), k33 = at(k, 3, 3);
      for (let row = 0; row <= R; row++) {
        let above = (i * P + row) * P, here = above + P, to = (o * S + 2 * row) * S, under = to + S;
        let a = x[above++], c = x[here++];
        for (const end = to + S; to < end; to += 2, under += 2) {
          const b = x[above++], d = x[here++];
          y[to] += k00 * d + k02 * c + k20 * b + k22 * a;
          y[to + 1] += k01 * d + k03 * c + k21 * b + k23 * a;
          y[under] += k10 * d + k12 * c + k30 * b + k32 * a;
          y[under + 1] += k11 * d + k13 * c + k31 * b + k33 * a;
          a = b; c = d;
        }
      }
    }
  return y;
}

/** Filter squares of S x S, less `crop` pixels at each side, by taps in both directions: C squares of R x R in their border. */
function blur(x, C, S, crop, taps, R) {
  const P = R + 2, y = new Float64Array(C * P * P), line = new Float64Array(S * R);
  for (let c = 0; c < C; c++) {
    line.fill(0);
    for (let k = 0; k < taps.length; k++)
      for (let row = crop; row < S - crop; row++)
        for (let n = Math.max(0, 1 - k), end = Math.min(R, S - 2 * crop + 1 - k); n < end; n++)
          line[row * R + n] += taps[k] * x[(c * S + row) * S + n + k - 1 + crop];
    for (let k = 0; k < taps.length; k++)
      for (let n = Math.max(0, 1 - k), end = Math.min(R, S - 2 * crop + 1 - k); n < end; n++)
        for (let col = 0; col < R; col++)
          y[(c * P + n + 1) * P + col + 1] += taps[k] * line[(n + k - 1 + crop) * R + col];
  }
  return y;
}

/** StyleGAN2's skip pictures, C squares in their border, twice as large: [1, 3, 3, 1] as `resampling.upsample`. */
function upsample(x, C, R) {
  const S = 2 * R + 2, wide = new Float64Array(C * S * S); // zeros between the pixels
  for (let c = 0; c < C; c++)
    for (let row = 0; row < R; row++)
      for (let col = 0; col < R; col++)
        wide[(c * S + 2 * row + 1) * S + 2 * col + 1] = x[(c * (R + 2) + row + 1) * (R + 2) + col + 1];
  return blur(wide, C, S, 0, [0.25, 0.75, 0.75, 0.25], 2 * R);
}

function scale(x, factors) {
  const area = x.length / factors.length;
  for (let n = 0; n < x.length; n++) x[n] *= factors[(n / area) | 0];
}

/** (x + bias + noise) through the leaky ReLU; then AdaIN, if `style` holds a factor and an addend for each map. */
function finish(x, layer, noise, style) {
  const { out: C, R } = layer, P = R + 2;
  for (let c = 0; c < C; c++) {
    const strength = noise && layer.noise ? layer.strength[c] : 0;
    let sum = 0, squares = 0;
    for (let row = 0; row < R; row++)
      for (let n = (c * P + row + 1) * P + 1, end = n + R, m = row * R; n < end; n++, m++) {
        const value = x[n] + layer.bias[c] + (strength && strength * layer.noise[m]);
        x[n] = value < 0 ? value * layer.slope : value;
        sum += x[n];
        squares += x[n] * x[n];
      }
    if (!style) continue;
    const mean = sum / (R * R), factor = style[c] / Math.sqrt(squares / (R * R) - mean * mean + 1e-8);
    for (let row = 0; row < R; row++)
      for (let n = (c * P + row + 1) * P + 1, end = n + R; n < end; n++) x[n] = (x[n] - mean) * factor + style[C + c];
  }
}

/** A 1 x 1 convolution with weights [C, I]: the picture of these maps. */
function toPicture(x, rgb, I, C, style) {
  const area = x.length / I, y = new Float64Array(C * area);
  for (let c = 0; c < C; c++) {
    for (let i = 0; i < I; i++) {
      const factor = rgb.weight[c * I + i] * (style ? style[i] : 1);
      for (let n = 0; n < area; n++) y[c * area + n] += factor * x[i * area + n];
    }
    for (let n = 0; n < area; n++) y[c * area + n] += rgb.bias[c];
  }
  return edge(y, C, Math.sqrt(area) - 2);
}

/** Zero the border again. */
function edge(x, C, R) {
  const P = R + 2;
  for (let c = 0; c < C; c++)
    for (let n = 0; n < P; n++)
      x[c * P * P + n] = x[(c * P + P - 1) * P + n] = x[(c * P + n) * P] = x[(c * P + n) * P + P - 1] = 0;
  return x;
}

/** The factors that bring modulated maps back to unit size: 1 / sqrt(sum_i s_i^2 energy_oi + eps). */
function demodulation(layer, style) {
  return Float64Array.from({ length: layer.out }, (_, o) => {
    let sum = 1e-8;
    for (let i = 0; i < layer.in; i++) sum += style[i] * style[i] * layer.energy[o * layer.in + i];
    return layer.gain / Math.sqrt(sum);
  });
}

/** [C, R, R] without a border -> with one. */
const padded = (x, C, R) => blur(x, C, R, 0, [0, 1], R);

/** ws: one w for each layer -> { img: C squares in their border, R }. Stops at `enough` pixels where each size has a picture. */
function synthesize(G, ws, noise, enough) {
  let x = padded(G.dense ? affine(G.start, ws[0]) : G.start, G.width, 4), img = null;
  for (const layer of G.layers) {
    const { in: I, out: O, R, up, weight } = layer, style = layer.style && affine(layer.style, ws[layer.w]);
    if (style) scale(x, style);
    if (up) x = blur(convUp(x, weight, I, O, R / 2, up.kernel), O, R + 2, up.crop, up.taps, R);
    else if (weight) x = conv(x, weight, I, O, R);
    if (style) scale(x, demodulation(layer, style));
    finish(x, layer, noise, layer.adain && affine(layer.adain, ws[layer.w]));
    if (!layer.rgb) continue;
    const picture = toPicture(x, layer.rgb, O, G.channels, layer.rgb.style && affine(layer.rgb.style, ws[layer.rgb.w]));
    if (img) upsample(img, G.channels, R / 2).forEach((value, n) => (picture[n] += value));
    img = picture;
    if (G.skip && R >= enough) return { img, R };
  }
  return { img: img || x.map(Math.tanh), R: G.resolution };
}

/** What the sliders say -> the styles of each layer: truncation, a second seed from some layer on, steps along directions. */
function styles(G, { seed, second, layer, psi, kind, steps }) {
  const D = G.w_dim, at = (s) => G.ws.subarray((s * G.centres + kind) * D, (s * G.centres + kind + 1) * D);
  const centre = G.centre.subarray(kind * D, (kind + 1) * D);
  return Array.from({ length: G.num_ws }, (_, n) => {
    const w = Float64Array.from(at(n < layer ? seed : second), (value, k) => centre[k] + psi * (value - centre[k]));
    steps.forEach((step, j) => { for (let k = 0; k < D; k++) w[k] += step * G.directions[j * D + k]; });
    return w;
  });
}

/** Floats in [-1, 1] -> RGBA, by the rule of `predict.to_uint8`. */
function pixels(img, C, R) {
  const out = new Uint8ClampedArray(4 * R * R).fill(255), P = R + 2;
  for (let n = 0; n < R * R; n++)
    for (let c = 0; c < 3; c++)
      out[4 * n + c] = (img[(Math.min(c, C - 1) * P + ((n / R) | 0) + 1) * P + (n % R) + 1] + 1) * 127.5;
  return out;
}

/** Names of tensors in the list of layers -> the tensors. */
function unpack({ halves, floats, ...G }) {
  const all = fromHalves(halves), exact = new Float32Array(bytes(floats));
  const find = (value) => {
    if (Array.isArray(value)) return value.map(find);
    if (value === null || typeof value !== "object") return value;
    if ("half" in value) return all.subarray(value.half, value.half + value.size);
    if ("float" in value) return exact.subarray(value.float, value.float + value.size);
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, find(inner)]));
  };
  const found = find(G);
  for (const layer of found.layers.filter((one) => one.style)) {
    layer.energy = Float64Array.from({ length: layer.in * layer.out }, (_, n) =>
      layer.weight.subarray(9 * n, 9 * n + 9).reduce((sum, value) => sum + value * value, 0));
  }
  return found;
}

function work() {
  let G;
  onmessage = ({ data }) => {
    if (data.generator) return void (G = unpack(JSON.parse(data.generator)));
    const begin = performance.now(), { img, R } = synthesize(G, styles(G, data), data.noise, data.enough);
    postMessage({ rgba: pixels(img, G.channels, R), R, ms: performance.now() - begin });
  };
}

// --- The page --------------------------------------------------------------------------------------------------------------------

/** A control in words: "Seed 1". */
function inWords(control) {
  const value = control.type === "checkbox" ? (control.checked ? "on" : "off") : control.selectedOptions?.[0].text ?? control.value;
  return `${control.closest("label").firstElementChild.textContent} ${value}`;
}

function show(root, source) {
  const data = root.querySelector("script[type='application/json']");
  if (!data) return; // too large: its sheet stays
  const canvas = root.querySelector("canvas"), said = root.querySelector("[aria-live]"), form = root.querySelector("form");
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const field = (name) => form.elements[name], number = (name, usual) => (field(name) ? Number(field(name).value) : usual);
  const R = Number(canvas.dataset.resolution), paint = canvas.getContext("2d");
  let busy = false, waiting = null;

  const asked = (moving) => ({
    seed: number("seed"), second: number("second", 0), layer: number("layer", 1e9), psi: number("psi"), kind: number("kind", 0),
    steps: [...form.querySelectorAll("[name=step]")].map((one) => Number(one.value)),
    noise: !field("noise") || field("noise").checked, enough: moving && "slow" in root.dataset ? Math.min(32, R / 2) : R,
  });
  const ask = (moving) => {
    form.querySelectorAll("input[type=range]").forEach((one) => (one.nextElementSibling.value = one.value));
    if (busy) return void (waiting = moving ? "moving" : "still");
    busy = true;
    root.dataset.state = "drawing";
    worker.postMessage(asked(moving));
  };
  worker.onmessage = ({ data: { rgba, R: size, ms } }) => {
    canvas.width = canvas.height = size;
    paint.putImageData(new ImageData(rgba, size, size), 0, 0);
    if (size === R) ms > 150 ? (root.dataset.slow = "") : delete root.dataset.slow;
    busy = false;
    const next = waiting || (size < R ? "still" : null); // a coarse picture is followed by the whole one
    waiting = null;
    if (next) return void ask(next === "moving");
    const told = [...form.querySelectorAll("input, select")].map(inWords).join(", ");
    canvas.setAttribute("aria-label", `Synthetic slice: ${told}`);
    said.textContent = `${told}. Drawn in ${ms.toFixed(0)} ms.`;
    Object.assign(root.dataset, { state: "drawn", ms: ms.toFixed(1) });
  };
  form.addEventListener("input", () => ask(true));
  form.addEventListener("change", () => ask(false));
  form.addEventListener("reset", () => setTimeout(ask));
  form.addEventListener("submit", (event) => event.preventDefault());
  root.classList.add("alive");
  worker.postMessage({ generator: data.textContent });
  ask(false);
}

if (typeof document === "undefined") work();
else document.querySelectorAll(".explorer").forEach((root) => show(root, document.currentScript.textContent));
