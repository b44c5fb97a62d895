// What the cells do between the matrix products, for a group of cells of one row.
//
// A cell tells how many sums it takes of each kind (`gates`), what it keeps of a step for the way back (`kept` values),
// and whether its gradients for what comes from the input and from the hidden state differ (`apart`). `carry` is what
// goes from step to step beside h: the LSTM's c, the GRU's h in fp32; on the way back the gradient of the one, and the
// part of the other's that bypasses the products.
#pragma once

#include "numbers.h"

namespace scriven {
namespace {

inline Values sigmoid_slope(Values y) { return less(y, y, y); }
inline Values tanh_slope(Values y) { return less(y, y, all(1.0f)); }

// Elman 1990: h = tanh(x + u).
template <class F> struct Rnn {
    static constexpr int gates = 1, kept = 1;
    static constexpr bool apart = false;

    static Values forward(const Values *x, const Values *u, Values &, Values *keep) {
        keep[0] = x[0] + u[0];
        F::template bound<1, 0>(keep);
        return keep[0];
    }

    static void backward(Values dh, Values &, const Values *kept, Values *dx, Values *) {
        dx[0] = dh * tanh_slope(kept[0]);
    }
};

// Cho et al. 2014 in torch's form, the reset gate after the product; r, z, n.
template <class F> struct Gru {
    static constexpr int gates = 3, kept = 5;
    static constexpr bool apart = true;

    static Values forward(const Values *x, const Values *u, Values &h, Values *keep) {
        keep[0] = x[0] + u[0], keep[1] = x[1] + u[1];
        F::template bound<2, 2>(keep);
        keep[2] = fused(keep[0], u[2], x[2]);
        F::template bound<1, 0>(keep + 2);
        keep[3] = u[2], keep[4] = h - keep[2];
        return h = fused(keep[1], keep[4], keep[2]);
    }

    static void backward(Values dh, Values &bypass, const Values *kept, Values *dx, Values *du) {
        const Values r = kept[0], z = kept[1], n = kept[2];
        dh = dh + bypass;
        bypass = dh * z;
        dx[1] = du[1] = dh * kept[4] * sigmoid_slope(z);
        dx[2] = (dh - bypass) * tanh_slope(n);
        du[2] = dx[2] * r;
        dx[0] = du[0] = dx[2] * kept[3] * sigmoid_slope(r);
    }
};

// Hochreiter & Schmidhuber 1997 with a forget gate; torch's order i, f, g, o, and kept as i, f, o, g.
template <class F> struct Lstm {
    static constexpr int gates = 4, kept = 6;
    static constexpr bool apart = false;

    static Values forward(const Values *x, const Values *u, Values &c, Values *keep) {
        keep[0] = x[0] + u[0], keep[1] = x[1] + u[1], keep[2] = x[3] + u[3], keep[3] = x[2] + u[2];
        F::template bound<4, 3>(keep);
        keep[4] = c;
        keep[5] = c = fused(keep[1], c, keep[0] * keep[3]);
        F::template bound<1, 0>(keep + 5);
        return keep[2] * keep[5];
    }

    static void backward(Values dh, Values &dc, const Values *kept, Values *dx, Values *) {
        const Values i = kept[0], f = kept[1], o = kept[2], g = kept[3], bounded = kept[5];
        dc = fused(dh * o, tanh_slope(bounded), dc);
        dx[0] = dc * g * sigmoid_slope(i);
        dx[1] = dc * kept[4] * sigmoid_slope(f);
        dx[2] = dc * i * tanh_slope(g);
        dx[3] = dh * bounded * sigmoid_slope(o);
        dc = dc * f;
    }
};

}  // namespace
}  // namespace scriven
