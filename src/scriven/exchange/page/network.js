/**
 * A network with weights in int8, one text at a time, bit by bit as native code computes it (kernels/native/matmul.h
 * and forward_step.h). Every output of a matrix has a scale, and so has the vector that is multiplied with it; all else
 * is float32.
 */

import { activate, exponentials, OF_SIGMOID, OF_TANH, sigmoids } from "./functions.js";
import { makeProducts } from "./products.js";

const f32 = Math.fround;
const TO_INTEGER = 12582912;
const LEAST = { rms: f32(1.1920928955078125e-7), layer: f32(1e-5) };
const PARTS = 16; // partial sums of a norm

/** A matrix with its product: `read(x)` multiplies it, `writeTo` gives the outputs. */
class Matrix {
  constructor(scales, product) {
    Object.assign(this, { scales, ...product, scale: 0 });
  }

  read(x) {
    const { operand } = this;
    let largest = f32(0);
    for (let place = 0; place < operand.length; place++) {
      const size = Math.abs(x[place]);
      if (size > largest) largest = size;
    }
    const factor = largest > 1e-30 ? f32(127 / largest) : 0;
    this.scale = f32(largest / 127);
    for (let place = 0; place < operand.length; place++) operand[place] = f32(f32(x[place] * factor) + TO_INTEGER) - TO_INTEGER;
    this.multiply();
  }

  /** The outputs, or with a `base` the sums with it. */
  writeTo(to, base = null) {
    const { sums, scales, scale } = this;
    if (base) for (let at = 0; at < to.length; at++) to[at] = base[at] + f32(f32(f32(sums[at]) * scales[at]) * scale);
    else for (let at = 0; at < to.length; at++) to[at] = f32(f32(sums[at]) * scales[at]) * scale;
  }
}

const sumOf = (x, term) => {
  const parts = new Float32Array(PARTS);
  for (let place = 0; place < x.length; place++) parts[place % PARTS] += term(x[place]);
  return parts.reduce((sum, part) => f32(sum + part), 0);
};

/** Reads symbols. `state` is a list of arrays: h, and an lstm's c, of each layer. */
export class Network {
  /** `description` is that of the file's header; `arrays` are typed arrays by name. */
  constructor(description, arrays, compiler) {
    Object.assign(this, description);
    const names = Object.keys(arrays).filter((name) => arrays[name] instanceof Int8Array);
    const shapes = names.map((name) => {
      const rows = arrays[`${name}.scale`].length;
      return { values: arrays[name], rows, columns: arrays[name].length / rows };
    });
    const products = makeProducts(shapes, compiler);
    const matrices = Object.fromEntries(names.map((name, place) => [name, new Matrix(arrays[`${name}.scale`], products[place])]));
    const of = (name) => matrices[name] ?? arrays[name] ?? null;
    const parts = ["input", "hidden", "sums", "apart", "norm", "shift"];
    this.stacks = Array.from({ length: description.members }, (_, member) => ({
      head: of(`${member}.head`),
      layers: description.widths.map((cells, depth) => ({
        ...Object.fromEntries(parts.map((name) => [name, of(`${member}.${depth}.${name}`)])),
        cells,
        hasRelu: description.activations[depth] === "relu",
        inside: new Float32Array(this.gates * cells), // sums of the input
        across: new Float32Array(this.gates * cells), // sums of the state
        x: new Float32Array(cells), // what goes to the next layer
      })),
    }));
    this.bias = arrays["head.bias"] ?? null;
    this.perLayer = description.cell === "lstm" ? 2 : 1;
  }

  zeroState() {
    return this.stacks.flatMap(({ layers }) => layers.flatMap(({ cells }) => Array.from({ length: this.perLayer }, () => new Float32Array(cells))));
  }

  /** Reads a symbol: changes the state, and with `logits` (V,) writes what comes next into it. */
  read(id, state, logits = null) {
    if (id === this.boundary) for (const part of state) part.fill(0);
    let place = 0;
    this.stacks.forEach(({ layers, head }, stack) => {
      let x = null;
      layers.forEach((layer, depth) => {
        this.#readLayer(layer, id, x, state, place);
        x = this.#passOn(layer, depth, depth ? layers[depth - 1].x : null, state[place]);
        place += this.perLayer;
      });
      if (logits) this.#addLogits(logits, stack, head, x);
    });
  }

  #readLayer(layer, id, x, state, place) {
    const { input, hidden, sums, inside, across } = layer;
    input?.read(x);
    hidden?.read(state[place]);
    if (input) input.writeTo(inside, sums);
    else inside.set(sums.subarray(id * inside.length, (id + 1) * inside.length));
    hidden?.writeTo(across);
    CELLS[this.cell](layer, state[place], state[place + 1]);
  }

  /** What the next layer reads: the output, plus the residual input, then normalised. */
  #passOn(layer, depth, before, h) {
    if (!this.residual && !layer.norm) return h;
    const { x, cells, norm, shift } = layer;
    const sum = (layer.sum ??= new Float32Array(cells)); // before its norm
    for (let at = 0; at < cells; at++) sum[at] = this.residual && depth ? this.around[at] + h[at] : h[at];
    this.around = sum;
    if (!norm) return sum;
    const mean = this.norm === "rms" ? 0 : f32(sumOf(sum, (each) => each) / cells);
    const square = f32(sumOf(sum, (each) => f32(f32(each - mean) * f32(each - mean))) / cells);
    const factor = f32(1 / f32(Math.sqrt(f32(square + LEAST[this.norm]))));
    for (let at = 0; at < cells; at++) x[at] = f32(f32(f32(sum[at] - mean) * factor) * norm[at]);
    if (shift) for (let at = 0; at < cells; at++) x[at] += shift[at];
    return x;
  }

  #addLogits(logits, stack, head, x) {
    if (!head) {
      const share = f32(1 / this.stacks.length);
      for (let id = 0; id < logits.length; id++) logits[id] = stack ? logits[id] + f32(share * x[id]) : share * x[id];
      return;
    }
    head.read(x);
    head.writeTo(logits, stack ? logits : this.bias);
  }
}

/** Adds what comes from the state to the sums of a layer from `begin` to `end`. */
function addSums({ inside, across }, begin, end) {
  for (let at = begin; at < end; at++) inside[at] += across[at];
}

/** An lstm of tanh. A product or a sum of several sigmoids and tanh has one division. */
function stepLstm({ cells, inside: e }, h, c) {
  exponentials(e, 0, 2 * cells, OF_SIGMOID);
  exponentials(e, 2 * cells, 3 * cells, OF_TANH);
  exponentials(e, 3 * cells, 4 * cells, OF_SIGMOID);
  for (let at = 0; at < cells; at++) {
    const fresh = e[2 * cells + at];
    const kept = f32(1 + e[cells + at]);
    const others = f32(f32(1 + e[at]) * f32(1 + fresh));
    c[at] = f32(f32(c[at] * others) + f32(f32(1 - fresh) * kept)) / f32(kept * others);
  }
  h.set(c);
  exponentials(h, 0, cells, OF_TANH);
  for (let at = 0; at < cells; at++) h[at] = f32(1 - h[at]) / f32(f32(1 + e[3 * cells + at]) * f32(1 + h[at]));
}

/** The cells change h, and an lstm's c. Gates are in torch's order. */
const CELLS = {
  lstm(layer, h, c) {
    const { cells, inside } = layer;
    addSums(layer, 0, 4 * cells);
    if (!layer.hasRelu) return stepLstm(layer, h, c);
    sigmoids(inside, 0, 2 * cells);
    activate(inside, 2 * cells, 3 * cells, true);
    sigmoids(inside, 3 * cells, 4 * cells);
    for (let at = 0; at < cells; at++) c[at] = f32(inside[cells + at] * c[at]) + f32(inside[at] * inside[2 * cells + at]);
    h.set(c);
    activate(h, 0, cells, true);
    for (let at = 0; at < cells; at++) h[at] *= inside[3 * cells + at];
  },
  gru(layer, h) {
    const { cells, inside, across, apart, hasRelu } = layer;
    addSums(layer, 0, 2 * cells);
    sigmoids(inside, 0, 2 * cells);
    for (let at = 0; at < cells; at++) inside[2 * cells + at] += f32(inside[at] * f32(across[2 * cells + at] + apart[at]));
    activate(inside, 2 * cells, 3 * cells, hasRelu);
    for (let at = 0; at < cells; at++) {
      const fresh = inside[2 * cells + at];
      h[at] = fresh + f32(inside[cells + at] * f32(h[at] - fresh));
    }
  },
  rnn(layer, h) {
    addSums(layer, 0, layer.cells);
    h.set(layer.inside);
    activate(h, 0, layer.cells, layer.hasRelu);
  },
  mingru({ cells, inside, across }, h) {
    across.set(inside);
    sigmoids(inside, 0, 2 * cells);
    for (let at = 0; at < cells; at++) {
      const x = across[cells + at];
      const fresh = x >= 0 ? f32(x + 0.5) : inside[cells + at];
      h[at] += f32(inside[at] * f32(fresh - h[at]));
    }
  },
};
