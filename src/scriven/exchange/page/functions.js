/**
 * The functions of the network and of the draws, by the same operations in the same order as native code, each rounded
 * once: to float32 by `Math.fround` (twice rounding, to float64 and then to float32, gives the same for + - * / and the
 * square root), or in float64. So all bits are native code's: see kernels/native/vector_math.h.
 */

const f32 = Math.fround;
const TO_INTEGER = 12582912; // 1.5 * 2^23: adding it rounds to an integer
const LOG2_E = f32(1.44269504088896341);
const [LEAST, MOST] = [-120, 40]; // exponents
const HALVES = new Float64Array(1100).fill(1); // 2 to the -n: exact, as a power that the browser computes need not be
for (let n = 1; n < HALVES.length; n++) HALVES[n] = HALVES[n - 1] / 2;
const POWERS = Float32Array.from({ length: MOST - LEAST + 1 }, (_, place) => (place < -LEAST ? HALVES[-LEAST - place] : 1 / HALVES[place + LEAST]));
const [P5, P4, P3, P2, P1] = [1.338130254e-3, 9.666368515e-3, 5.550381014e-2, 2.402234904e-1, 6.931471806e-1].map(f32);

/** Factors for `exponentials`: e to the x; to the -x, for a sigmoid; to the -2x, for a tanh. */
export const [PLAIN, OF_SIGMOID, OF_TANH] = [LOG2_E, -LOG2_E, -2 * LOG2_E];

/** Replaces the numbers of an array from `begin` to `end` by 2 to the power of `factor` times each. */
export function exponentials(array, begin, end, factor) {
  for (let at = begin; at < end; at++) {
    let x = f32(array[at] * factor);
    x = x < MOST ? x : MOST;
    x = x > LEAST ? x : LEAST;
    const whole = f32(f32(x + TO_INTEGER) - TO_INTEGER);
    const r = f32(x - whole);
    let p = f32(f32(r * P5) + P4);
    p = f32(f32(p * r) + P3);
    p = f32(f32(p * r) + P2);
    p = f32(f32(p * r) + P1);
    p = f32(f32(p * r) + 1);
    array[at] = f32(p * POWERS[(whole - LEAST) | 0]);
  }
}

/** Replaces numbers of an array by their sigmoid. */
export function sigmoids(array, begin, end) {
  exponentials(array, begin, end, OF_SIGMOID);
  for (let at = begin; at < end; at++) array[at] = 1 / f32(1 + array[at]);
}

/** Replaces numbers of an array by their tanh, or with `hasRelu` those below 0 by 0. */
export function activate(array, begin, end, hasRelu) {
  if (hasRelu) for (let at = begin; at < end; at++) array[at] = array[at] > 0 ? array[at] : 0;
  else {
    exponentials(array, begin, end, OF_TANH);
    for (let at = begin; at < end; at++) array[at] = f32(1 - array[at]) / f32(1 + array[at]);
  }
}

const TO_INTEGER_64 = 6755399441055744; // 1.5 * 2^52
const FACTORS = [1 / 6227020800, 1 / 479001600, 1 / 39916800, 1 / 3628800, 1 / 362880, 1 / 40320, 1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5];

/** e to the x in float64, for x <= 0; 0 below -708. */
export function exponential64(x) {
  if (x < -708) return 0;
  const whole = x * 1.4426950408889634 + TO_INTEGER_64 - TO_INTEGER_64;
  const r = x - whole * 6.93147180369123816490e-1 - whole * 1.90821492927058770002e-10;
  let p = FACTORS[0];
  for (let place = 1; place < FACTORS.length; place++) p = p * r + FACTORS[place];
  return (p * (r * r) + r + 1) * HALVES[-whole];
}

const bits = new BigInt64Array(1);
const value = new Float64Array(bits.buffer);
const HALF = 0x3fe6a09e667f3bcdn; // the bits of the square root of 1/2
const MANTISSA = (1n << 52n) - 1n;

/** The natural logarithm of a normal float64: see kernels/native/counts.h. */
export function logarithm(x) {
  value[0] = x;
  const shifted = bits[0] - HALF;
  const exponent = Number(shifted >> 52n);
  bits[0] = (shifted & MANTISSA) + HALF;
  const s = (value[0] - 1) / (value[0] + 1);
  const z = s * s;
  let sum = 1 / 23;
  for (let divisor = 21; divisor > 0; divisor -= 2) sum = sum * z + 1 / divisor;
  return exponent * 0.69314718055994531 + 2 * s * sum;
}
