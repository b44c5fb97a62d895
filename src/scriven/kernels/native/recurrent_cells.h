// What the cells do between the matrix products, for a group of cells of one row.
//
// A cell tells how many sums it takes of each kind (`gates`), what it keeps of a step for the way back (`kept` values),
// and whether its gradients for what comes from the input and from the hidden state differ (`apart`). `carry` is what
// goes from step to step beside h: the LSTM's c, the GRU's h in fp32; on the way back the gradient of the one, and the
// part of the other's that bypasses the products. With `relu` that bounds a cell in the place of tanh.
#pragma once

#include "numbers.h"

namespace scriven {
namespace {

inline Values sigmoid_slope(Values y) { return less(y, y, y); }
inline Floats relu_slope(Floats y) { return y <= 0.0f ? Floats{} : spread(1.0f); }
inline Values slope(Values y, bool relu) {
    return relu ? Values{relu_slope(y.low), relu_slope(y.high)} : less(y, y, all(1.0f));
}

// The first `sigmoids` of `count` values to their sigmoids, the others to what bounds the cell. NaN stays.
template <class F, int count, int sigmoids> void bound(Values *x, bool relu) {
    if (!relu) return F::template bound<count, sigmoids>(x);
    if constexpr (sigmoids > 0) F::template bound<sigmoids, sigmoids>(x);
    for (int k = sigmoids; k < count; ++k) x[k] = larger(all(0.0f), x[k]);
}

// Elman 1990: h = tanh(x + u), or relu.
template <class F> struct Rnn {
    static constexpr int gates = 1, kept = 1;
    static constexpr bool apart = false;

    static Values forward(const Values *x, const Values *u, Values &, Values *keep, bool relu) {
        keep[0] = x[0] + u[0];
        bound<F, 1, 0>(keep, relu);
        return keep[0];
    }

    static void backward(Values dh, Values &, const Values *kept, Values *dx, Values *, bool relu) {
        dx[0] = dh * slope(kept[0], relu);
    }
};

// Cho et al. 2014 in torch's form, the reset gate after the product; r, z, n.
template <class F> struct Gru {
    static constexpr int gates = 3, kept = 5;
    static constexpr bool apart = true;

    static Values forward(const Values *x, const Values *u, Values &h, Values *keep, bool relu) {
        keep[0] = x[0] + u[0], keep[1] = x[1] + u[1];
        bound<F, 2, 2>(keep, relu);
        keep[2] = fused(keep[0], u[2], x[2]);
        bound<F, 1, 0>(keep + 2, relu);
        keep[3] = u[2], keep[4] = h - keep[2];
        return h = fused(keep[1], keep[4], keep[2]);
    }

    static void backward(Values dh, Values &bypass, const Values *kept, Values *dx, Values *du, bool relu) {
        const Values r = kept[0], z = kept[1], n = kept[2];
        dh = dh + bypass;
        bypass = dh * z;
        dx[1] = du[1] = dh * kept[4] * sigmoid_slope(z);
        dx[2] = (dh - bypass) * slope(n, relu);
        du[2] = dx[2] * r;
        dx[0] = du[0] = dx[2] * kept[3] * sigmoid_slope(r);
    }
};

// Hochreiter & Schmidhuber 1997 with a forget gate; torch's order i, f, g, o, and kept as i, f, o, g.
template <class F> struct Lstm {
    static constexpr int gates = 4, kept = 6;
    static constexpr bool apart = false;

    static Values forward(const Values *x, const Values *u, Values &c, Values *keep, bool relu) {
        keep[0] = x[0] + u[0], keep[1] = x[1] + u[1], keep[2] = x[3] + u[3], keep[3] = x[2] + u[2];
        bound<F, 4, 3>(keep, relu);
        keep[4] = c;
        keep[5] = c = fused(keep[1], c, keep[0] * keep[3]);
        bound<F, 1, 0>(keep + 5, relu);
        return keep[2] * keep[5];
    }

    static void backward(Values dh, Values &dc, const Values *kept, Values *dx, Values *, bool relu) {
        const Values i = kept[0], f = kept[1], o = kept[2], g = kept[3], bounded = kept[5];
        dc = fused(dh * o, slope(bounded, relu), dc);
        dx[0] = dc * g * sigmoid_slope(i);
        dx[1] = dc * kept[4] * sigmoid_slope(f);
        dx[2] = dc * i * slope(g, relu);
        dx[3] = dh * bounded * sigmoid_slope(o);
        dc = dc * f;
    }
};

}  // namespace
}  // namespace scriven
