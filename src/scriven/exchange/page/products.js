/**
 * Products of matrices of int8 with vectors, as exact sums of integers: by WebAssembly with vectors of 128 bits, or by
 * plain JavaScript where there is none. Both give the same sums.
 */

const WIDTH = 16; // columns that are multiplied together; rows are padded with zeros
const PAGE = 65536; // bytes of WebAssembly's memory grow by

/* The module, byte by byte. For each row of weights, a and b are four sums each:

   multiply(weights, operand, sums, end, columns):
     for (; sums < end; sums += 4) {
       a = b = 0; x = operand
       for (row = weights + columns; weights < row; weights += 16, x += 32) {
         a += the products of 8 weights (int8) with 8 of x (int16), added in pairs
         b += those of the next 8
       }
       *sums = the sum of all lanes of a and b
     } */
const [GET, SET, TEE, ADD, CONST, LESS, LOOP, AGAIN, END] = [0x20, 0x21, 0x22, 0x6a, 0x41, 0x49, [0x03, 0x40], 0x0d, 0x0b];
const [WEIGHTS, OPERAND, SUMS, STOP, COLUMNS, X, ROW, A, B] = [0, 1, 2, 3, 4, 5, 6, 7, 8]; // parameters and locals
const ZEROS = [0xfd, 0x0c, ...new Array(16).fill(0)];
const ADD_LANES = [0xfd, 0xae, 0x01];
const lane = (number) => [GET, A, 0xfd, 0x1b, number];
const addProducts = (sums, weights, x) => [
  ...[GET, sums, GET, WEIGHTS, 0xfd, 0x01, 0, weights], // v128.load8x8_s
  ...[GET, X, 0xfd, 0x00, 0, x], // v128.load
  ...[0xfd, 0xba, 0x01, ...ADD_LANES, SET, sums], // i32x4.dot_i16x8_s
];
const BODY = [
  ...[2, 2, 0x7f, 2, 0x7b], // locals: two i32, two v128
  ...LOOP,
  ...[...ZEROS, SET, A, ...ZEROS, SET, B],
  ...[GET, OPERAND, SET, X, GET, WEIGHTS, GET, COLUMNS, ADD, SET, ROW],
  ...LOOP,
  ...addProducts(A, 0, 0),
  ...addProducts(B, 8, 16),
  ...[GET, X, CONST, 32, ADD, SET, X],
  ...[GET, WEIGHTS, CONST, WIDTH, ADD, TEE, WEIGHTS, GET, ROW, LESS, AGAIN, 0, END],
  ...[GET, SUMS, GET, A, GET, B, ...ADD_LANES, SET, A],
  ...[...lane(0), ...lane(1), ADD, ...lane(2), ADD, ...lane(3), ADD, 0x36, 2, 0], // i32.store
  ...[GET, SUMS, CONST, 4, ADD, TEE, SUMS, GET, STOP, LESS, AGAIN, 0, END],
  END,
];
const size = (bytes) => (bytes < 128 ? [bytes] : [(bytes & 127) | 128, bytes >> 7]);
const section = (number, bytes) => [number, ...size(bytes.length), ...bytes];
const MODULE = [
  ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
  ...section(1, [1, 0x60, 5, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0]), // a function of five i32
  ...section(2, [1, 1, 0x6d, 1, 0x6d, 2, 0, 1]), // imports the memory m.m
  ...section(3, [1, 0]),
  ...section(7, [1, 1, 0x66, 0, 0]), // exports the function as f
  ...section(10, [1, ...size(BODY.length), ...BODY]),
];

/** The compiled function and its memory of so many bytes; null where the browser has no such instructions. */
function compile(bytes) {
  try {
    const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE) });
    const module = new WebAssembly.Module(Uint8Array.from(MODULE));
    return { buffer: memory.buffer, multiply: new WebAssembly.Instance(module, { m: { m: memory } }).exports.f };
  } catch {
    return null;
  }
}

const padded = (columns) => Math.ceil(columns / WIDTH) * WIDTH;

/** The functions `multiply()` of matrices `{values: Int8Array, rows, columns}`, each with its operand and its sums. */
export function makeProducts(matrices, compiler = compile) {
  const sizes = matrices.map(({ rows, columns }) => [rows * padded(columns), 2 * padded(columns), Math.ceil(rows / 4) * 16]);
  const compiled = compiler(sizes.flat().reduce((sum, each) => sum + each, 0));
  const buffer = compiled?.buffer ?? new ArrayBuffer(sizes.flat().reduce((sum, each) => sum + each, 0));
  let place = 0;
  return matrices.map(({ values, rows, columns }, number) => {
    const [weights, x, sums] = sizes[number].map((each) => (place += each) - each);
    const width = padded(columns);
    const own = new Int8Array(buffer, weights, rows * width);
    for (let row = 0; row < rows; row++) own.set(values.subarray(row * columns, (row + 1) * columns), row * width);
    const made = { operand: new Int16Array(buffer, x, columns), sums: new Int32Array(buffer, sums, rows) };
    const slow = () => multiply(own, made.operand, made.sums, width);
    return { ...made, multiply: compiled ? () => compiled.multiply(weights, x, sums, sums + 4 * rows, width) : slow };
  });
}

function multiply(weights, operand, sums, width) {
  for (let row = 0, start = 0; row < sums.length; row++, start += width) {
    let sum = 0;
    for (let column = 0; column < operand.length; column++) sum = (sum + weights[start + column] * operand[column]) | 0;
    sums[row] = sum;
  }
}
