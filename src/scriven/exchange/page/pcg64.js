/** The random numbers of numpy: PCG64 of O'Neill (XSL-RR, 128 bits), seeded by numpy's SeedSequence. */

const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const STEP = 2 ** -53;
const wide = (value) => BigInt.asUintN(128, value);

/** Draws the numbers in [0, 1) that `numpy.random.default_rng(seed).random()` draws. The seed is a whole number. */
export class Random {
  constructor(seed) {
    const [a, b, c, d] = mixSeed(BigInt(seed));
    this.increment = wide((((c << 64n) | d) << 1n) | 1n);
    this.state = wide((this.increment + ((a << 64n) | b)) * MULTIPLIER + this.increment);
  }

  next() {
    this.state = wide(this.state * MULTIPLIER + this.increment);
    const folded = BigInt.asUintN(64, (this.state >> 64n) ^ this.state);
    const turns = this.state >> 122n;
    const turned = BigInt.asUintN(64, (folded >> turns) | (folded << (64n - turns)));
    return Number(turned >> 11n) * STEP;
  }
}

// --- SeedSequence

const [FIRST, FACTOR] = [0x43b0d7e5, 0x931e8875]; // of the hash that fills the pool
const [FIRST_OUT, FACTOR_OUT] = [0x8b51f9dd, 0x58f38ded]; // of the hash that reads it
const [LEFT, RIGHT] = [0xca01f9dd, 0x4973f715];
const SIZE = 4; // words of the pool
const fold = (word) => (word ^ (word >>> 16)) >>> 0;

/** A hash of words of 32 bits, whose constant changes with each. */
function makeHash(constant, factor) {
  return (word) => {
    word = (word ^ constant) >>> 0;
    constant = Math.imul(constant, factor) >>> 0;
    return fold(Math.imul(word, constant) >>> 0);
  };
}

const mix = (x, y) => fold((Math.imul(x, LEFT) - Math.imul(y, RIGHT)) >>> 0);

/** Four words of 64 bits from a seed. */
function mixSeed(seed) {
  const words = [];
  for (; seed || !words.length; seed >>= 32n) words.push(Number(seed & 0xffffffffn));
  const hash = makeHash(FIRST, FACTOR);
  const pool = Array.from({ length: SIZE }, (_, place) => hash(words[place] ?? 0));
  for (let from = 0; from < SIZE; from++) {
    for (let to = 0; to < SIZE; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  for (const word of words.slice(SIZE)) for (let to = 0; to < SIZE; to++) pool[to] = mix(pool[to], hash(word));
  const out = makeHash(FIRST_OUT, FACTOR_OUT);
  const halves = Array.from({ length: 2 * SIZE }, (_, place) => BigInt(out(pool[place % SIZE])));
  return Array.from({ length: SIZE }, (_, place) => halves[2 * place] | (halves[2 * place + 1] << 32n));
}
