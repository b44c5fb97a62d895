// Fits the discounts of an n-gram model: those that make a held-out text most probable.
#pragma once

#include <algorithm>
#include <cmath>

#include "counts.h"

namespace scriven {
namespace {

constexpr int64_t STEPS = 60, PAIRS = 8, HALVINGS = 20;
constexpr double LIMITS[CLASSES] = {1, 2, 3};             // that discounts stay below: the least count of their class
constexpr double USUAL[CLASSES] = {0.8176, 1.1488, 1.5};  // what the fit begins with and is drawn to

// What is known of a held-out symbol at one level.
struct Witness {
    uint32_t total, ones, twos, size, count;
};

// -ln of the probability of held-out symbols, as a function of numbers of any size, a discount each. One nat for a
// squared distance of 1 from the usual ones is added, so that what no text speaks of stays there.
class Likelihood {
  public:
    // `witnesses` (n, longest + 1), of which each symbol has `depths` (n).
    Likelihood(int64_t symbols, int64_t longest, int64_t places, const Witness *witnesses, const int8_t *depths)
        : symbols_(symbols), longest_(longest), places_(places), witnesses_(witnesses), depths_(depths) {}

    int64_t size() const { return (longest_ + 1) * KINDS * CLASSES; }

    // An algebraic sigmoid: the operations are exact to the last bit on every processor.
    static double discount(double x, int64_t i) {
        return LIMITS[i % CLASSES] * (0.5 + 0.5 * x / std::sqrt(1 + x * x));
    }
    static double slope(double x, int64_t i) {
        const double root = std::sqrt(1 + x * x);
        return LIMITS[i % CLASSES] * 0.5 / (root * root * root);
    }

    double operator()(const double *x, double *gradient) const {
        double discounts[DISCOUNTS], slopes[DISCOUNTS] = {}, sum = 0;
        for (int64_t i = 0; i < size(); i++) discounts[i] = discount(x[i], i);
        for (int64_t place = 0; place < places_; place++)
            sum += add(witnesses_ + place * (longest_ + 1), depths_[place], discounts, slopes);
        for (int64_t i = 0; i < size(); i++) {
            const double away = x[i] - usual(i);
            gradient[i] = slopes[i] * slope(x[i], i) + 2 * away;
            sum += away * away;
        }
        return sum;
    }
    // Without what was added.
    double nats(const double *x) const {
        double gradient[DISCOUNTS], added = 0;
        for (int64_t i = 0; i < size(); i++) added += (x[i] - usual(i)) * (x[i] - usual(i));
        return (*this)(x, gradient) - added;
    }
    static double usual(int64_t i) {
        const double part = 2 * USUAL[i % CLASSES] / LIMITS[i % CLASSES] - 1;
        return part / std::sqrt(1 - part * part);
    }

  private:
    // -ln p of one symbol; what it changes with each discount is added to `slopes`.
    double add(const Witness *level, int64_t depth, const double *discounts, double *slopes) const {
        double p[LONGEST + 2], backoff[LONGEST + 1];
        p[0] = 1.0 / double(symbols_);
        for (int64_t k = 0; k < depth; k++) {
            const Witness &w = level[k];
            const double *d = discounts + (k * KINDS + kind_of(w.size)) * CLASSES, scale = 1.0 / w.total;
            const double more = double(w.size) - w.ones - w.twos;
            backoff[k] = (d[0] * w.ones + d[1] * w.twos + d[2] * more) * scale;
            p[k + 1] = p[k] * backoff[k] + (w.count ? (w.count - d[class_of(w.count)]) * scale : 0.0);
        }
        double outer = -1.0 / p[depth];
        for (int64_t k = depth - 1; k >= 0; k--) {
            const Witness &w = level[k];
            double *s = slopes + (k * KINDS + kind_of(w.size)) * CLASSES;
            const double each = outer * p[k] / w.total;
            s[0] += each * w.ones;
            s[1] += each * w.twos;
            s[2] += each * (double(w.size) - w.ones - w.twos);
            if (w.count) s[class_of(w.count)] -= outer / w.total;
            outer *= backoff[k];
        }
        return -logarithm(p[depth]);
    }

    const int64_t symbols_, longest_, places_;
    const Witness *witnesses_;
    const int8_t *depths_;
};

inline double inner(const double *a, const double *b, int64_t size) {
    double sum = 0;
    for (int64_t i = 0; i < size; i++) sum += a[i] * b[i];
    return sum;
}

// Minimises a function by L-BFGS, from x on, where it ends.
template <class Function> void minimise(const Function &function, double *x) {
    constexpr int64_t most = DISCOUNTS;
    const int64_t size = function.size();
    double moved[PAIRS][most], turned[PAIRS][most], products[PAIRS], weights[PAIRS];
    double gradient[most], next[most], next_gradient[most], direction[most];
    double value = function(x, gradient);
    int64_t pairs = 0;  // all so far; the last few are kept
    for (int64_t step = 0; step < STEPS; step++) {
        std::copy_n(gradient, size, direction);
        const int64_t first = pairs > PAIRS ? pairs - PAIRS : 0;
        for (int64_t i = pairs - 1; i >= first; i--) {
            const int64_t at = i % PAIRS;
            weights[at] = inner(moved[at], direction, size) / products[at];
            for (int64_t j = 0; j < size; j++) direction[j] -= weights[at] * turned[at][j];
        }
        double scale = 1 / std::sqrt(inner(gradient, gradient, size) + 1e-30);
        if (pairs) {
            const int64_t last = (pairs - 1) % PAIRS;
            scale = products[last] / inner(turned[last], turned[last], size);
        }
        for (int64_t j = 0; j < size; j++) direction[j] *= scale;
        for (int64_t i = first; i < pairs; i++) {
            const int64_t at = i % PAIRS;
            const double change = weights[at] - inner(turned[at], direction, size) / products[at];
            for (int64_t j = 0; j < size; j++) direction[j] += change * moved[at][j];
        }
        const double falls = inner(gradient, direction, size);
        double length = 1, reached = value;
        for (int64_t half = 0; half < HALVINGS; half++, length /= 2) {
            for (int64_t j = 0; j < size; j++) next[j] = x[j] - length * direction[j];
            reached = function(next, next_gradient);
            if (reached <= value - 1e-4 * length * falls) break;
        }
        const double gained = value - reached;
        if (!(gained > 0)) return;
        const int64_t at = pairs % PAIRS;
        for (int64_t j = 0; j < size; j++) {
            moved[at][j] = next[j] - x[j];
            turned[at][j] = next_gradient[j] - gradient[j];
        }
        products[at] = inner(moved[at], turned[at], size);
        pairs += products[at] > 0;
        std::copy_n(next, size, x);
        std::copy_n(next_gradient, size, gradient);
        value = reached;
        if (gained < 1e-5 * (1 + value)) return;
    }
}

}  // namespace
}  // namespace scriven
