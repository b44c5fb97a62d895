// All steps of a layer whose gates see the input alone (minGRU, Feng et al. 2024), and their gradients:
//
//     z = sigmoid(k), new = x + 0.5 if x >= 0 and sigmoid(x) otherwise, h = (1 - z) * h_before + z * new
//
// k and x come from one earlier product of the input. Cells are independent, so a call works on a range of them.
//
// Compilers turn the loops over cells into vectors. Nothing is contracted, and every cell goes through the same
// operations for any width of vectors, so all levels give the same bits.
#include "calls.h"
#include "common.h"

namespace scriven {
namespace {

struct ScanShape {
    int64_t steps, rows, cells;
    int64_t begin, end;  // the cells to work on
};

// What both ways read. `sums` holds k (H) and x (H) of every step and row, in fp32 or as bits of bf16.
struct ScanInput {
    const void *sums;      // (T, N, 2H), or with ids (V, 2H)
    const int64_t *ids;    // (T, N) or null
    const uint8_t *fresh;  // (T, N) or null: where h_before is zero
    const float *h;        // (N, H) before the first step
};

struct ScanGradients {
    const float *y, *dy;  // (T, N, H): what came of every step, and the gradients of that
    float *dh;            // (N, H): the gradients of h
    void *dsums;          // (T, N, 2H) of the type of sums; or with ids (V, 2H) in fp32, which is added to
};

using bf16 = uint16_t;

inline float read(float value) { return value; }
inline float read(bf16 value) { return float_of_bf16(value); }

inline void store(float *to, float value) { *to = value; }
inline void store(bf16 *to, float value) { *to = bf16_of_float(value); }

// e to the x with a relative error of 3e-7, within 2^-63 and 2^63, so that the product of two is finite. The
// polynomial is (2^r - 1) / r at the Chebyshev nodes of |r| <= 1/2. NaN stays NaN.
inline float exponential(float x) {
    constexpr float log2_e = 1.44269504088896341f, limit = 63.0f;
    constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the lowest bits
    x *= log2_e;
    x = x > limit ? limit : x;
    x = x < -limit ? -limit : x;
    const float shifted = x + to_integer, r = x - (shifted - to_integer);
    float p = r * 1.338130254e-03f + 9.666368515e-03f;
    p = p * r + 5.550381014e-02f;
    p = p * r + 2.402234904e-01f;
    p = p * r + 6.931471806e-01f;
    p = p * r + 1.0f;
    uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000u;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

struct Gates {
    float z, keep, fresh, slope;  // keep: 1 - z; fresh: the new value; slope: its derivative
};

// Both sigmoids with one division.
inline Gates gates(float k, float x) {
    const float a = exponential(-k), b = exponential(-x);
    const float both = 1.0f / ((1.0f + a) * (1.0f + b));
    const float z = (1.0f + b) * both, below = (1.0f + a) * both;
    const float above = x + 0.5f, slope = b * below * below;
    return {z, a * z, x >= 0.0f ? above : below, x >= 0.0f ? 1.0f : slope};
}

// One step of a row. With `begins`, h_before is zero.
template <bool begins, class Sum>
void step(const Sum *__restrict k, const Sum *__restrict x, const float *__restrict before, float *__restrict h,
          int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const Gates g = gates(read(k[i]), read(x[i]));
        const float from = begins ? 0.0f : before[i];
        h[i] = from + g.z * (g.fresh - from);
    }
}

// The gradient of a step: dh comes from the next step, and goes to the one before. With `add`, it adds to gradients.
template <bool begins, bool add, class Sum, class Gradient>
void step_back(const Sum *__restrict k, const Sum *__restrict x, const float *__restrict before,
               const float *__restrict dy, float *__restrict dh, Gradient *__restrict dk, Gradient *__restrict dx,
               int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const Gates g = gates(read(k[i]), read(x[i]));
        const float d = dh[i] + dy[i], from = begins ? 0.0f : before[i];
        const float to_k = d * (g.fresh - from) * (g.z * g.keep), to_x = d * g.z * g.slope;
        store(dk + i, add ? read(dk[i]) + to_k : to_k);
        store(dx + i, add ? read(dx[i]) + to_x : to_x);
        dh[i] = begins ? 0.0f : d * g.keep;
    }
}

template <class Sum> void forward_of(const ScanShape &shape, const ScanInput &in, float *y) {
    const int64_t places = shape.steps * shape.rows, cells = shape.cells, count = shape.end - shape.begin;
    const float *before = in.h + shape.begin;
    float *h = y + shape.begin;
    for (int64_t place = 0; place < places; ++place, h += cells, before += cells) {
        if (place == shape.rows) before = y + shape.begin;  // from the second step on, the output of the one before
        const int64_t row = in.ids ? in.ids[place] : place;
        const Sum *k = static_cast<const Sum *>(in.sums) + row * 2 * cells + shape.begin;
        const bool begins = in.fresh && in.fresh[place];
        (begins ? step<true, Sum> : step<false, Sum>)(k, k + cells, before, h, count);
    }
}

template <class Sum, class Gradient, bool add>
void backward_of(const ScanShape &shape, const ScanInput &in, const ScanGradients &out) {
    const int64_t cells = shape.cells, count = shape.end - shape.begin;
    for (int64_t t = shape.steps - 1; t >= 0; --t)
        for (int64_t n = 0; n < shape.rows; ++n) {
            const int64_t place = t * shape.rows + n, here = place * cells + shape.begin;
            const int64_t at = (in.ids ? in.ids[place] : place) * 2 * cells + shape.begin;
            const Sum *k = static_cast<const Sum *>(in.sums) + at;
            Gradient *dk = static_cast<Gradient *>(out.dsums) + at;
            float *dh = out.dh + n * cells + shape.begin;
            const float *before = t ? out.y + here - shape.rows * cells : in.h + n * cells + shape.begin;
            const bool begins = in.fresh && in.fresh[place];
            (begins ? step_back<true, add, Sum, Gradient> : step_back<false, add, Sum, Gradient>)(
                k, k + cells, before, out.dy + here, dh, dk, dk + cells, count);
        }
}

void forward(const ScanShape &shape, const ScanInput &in, bool in_bf16, float *y) {
    (in_bf16 ? forward_of<bf16> : forward_of<float>)(shape, in, y);
}

void backward(const ScanShape &shape, const ScanInput &in, bool in_bf16, const ScanGradients &out) {
    if (in.ids)
        (in_bf16 ? backward_of<bf16, float, true> : backward_of<float, float, true>)(shape, in, out);
    else
        (in_bf16 ? backward_of<bf16, bf16, false> : backward_of<float, float, false>)(shape, in, out);
}

bool possible(const ScanShape &shape) {
    return shape.steps > 0 && shape.rows > 0 && shape.begin >= 0 && shape.begin <= shape.end &&
           shape.end <= shape.cells;
}

}  // namespace
}  // namespace scriven

// All steps, of some of the cells.
SCRIVEN_API int64_t scriven_scan_forward(const scriven::ScanForward *call) {
    using namespace scriven;
    const ScanShape shape{call->steps, call->rows, call->cells, call->begin, call->end};
    if (!possible(shape)) return bad_argument;
    for (int64_t i = 0; call->ids && i < call->steps * call->rows; ++i)
        if (call->ids[i] < 0 || call->ids[i] >= call->symbols) return bad_argument;
    const FlushDenormals flush;
    forward(shape, {call->sums, call->ids, call->fresh, call->h}, call->bf16, call->y);
    return ok;
}

// Their gradients.
SCRIVEN_API int64_t scriven_scan_backward(const scriven::ScanBackward *call) {
    using namespace scriven;
    const ScanShape shape{call->steps, call->rows, call->cells, call->begin, call->end};
    if (!possible(shape)) return bad_argument;
    const FlushDenormals flush;
    backward(shape, {call->sums, call->ids, call->fresh, call->h}, call->bf16,
             {call->y, call->dy, call->dh, call->dsums});
    return ok;
}
