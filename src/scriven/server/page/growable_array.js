/** A typed array that values can be appended to. */
export class GrowableArray {
  constructor(Kind, capacity = 1024) {
    this.values = new Kind(capacity);
    this.length = 0;
  }

  push(value) {
    if (this.length === this.values.length) {
      const larger = new this.values.constructor(2 * this.length);
      larger.set(this.values);
      this.values = larger;
    }
    this.values[this.length++] = value;
  }

  /** The index of the last value that is at most `value`, or -1. The values must be in ascending order. */
  lastUpTo(value) {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.values[middle] <= value) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }
}
