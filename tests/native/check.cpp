// The native kernels of one library against slow obvious code, without Python: for processors that are emulated, and for
// sanitizers. The build makes a program of it and needed.cpp for each library. Prints what all programs and processors
// must agree on to the last bit. Ends with 1 where a result is wrong, and with 2 where this processor cannot run the
// library. `make processors` runs it.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "../../src/scriven/kernels/native/common.h"
#include "check_sampler.h"

extern "C" {
int64_t scriven_features();
int64_t scriven_scan_forward(const scriven::ScanForward *);
int64_t scriven_recurrent_forward(const scriven::RecurrentForward *);
int64_t scriven_recurrent_backward(const scriven::RecurrentBackward *);
int64_t scriven_projection(const scriven::Projection *);
int64_t scriven_cross_entropy_width(int64_t);
int64_t scriven_cross_entropy_chunks(int64_t, int64_t, int64_t);
int64_t scriven_cross_entropy_forward(const scriven::CrossEntropyForward *);
int64_t scriven_cross_entropy_backward(const scriven::CrossEntropyBackward *);
int64_t scriven_muon_update(const scriven::MuonUpdate *);
int64_t scriven_muon_apply(const scriven::MuonApply *);
int64_t scriven_adamw_step(const scriven::AdamwStep *);
int64_t scriven_text_translate(const scriven::TextTranslate *);
int64_t scriven_counts_open(const scriven::CountsOpen *);
int64_t scriven_counts_add(const scriven::CountsAdd *);
int64_t scriven_counts_finish(const scriven::CountsFinish *);
int64_t scriven_counts_check(const scriven::CountsTable *);
int64_t scriven_counts_score(const scriven::CountsScore *);
int64_t scriven_counts_distribution(const scriven::CountsDistribution *);
void scriven_counts_close(void *);
}
extern const int64_t needed_features;  // of the library that is checked; 0 of the portable one

namespace {

using Floats = std::vector<float>;
using Reals = std::vector<double>;

std::mt19937 random_bits(1);
bool failed = false;

Floats drawn(int64_t count, double size = 1.0) {
    Floats values(static_cast<size_t>(count));
    for (float &value : values) value = static_cast<float>(size * (random_bits() / 2147483648.0 - 1.0));
    return values;
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// Whether calls compute in bf16; else in fp32.
bool in_bf16 = false;

// Values as calls take them: those whose type depends on the number format.
class Array {
  public:
    explicit Array(Floats values) : values_(std::move(values)), rounded_(values_.size()) {
        for (size_t i = 0; in_bf16 && i < values_.size(); ++i) rounded_[i] = scriven::bf16_of_float(values_[i]);
    }
    explicit Array(int64_t count) : Array(Floats(static_cast<size_t>(count))) {}
    void *data() { return in_bf16 ? static_cast<void *>(rounded_.data()) : values_.data(); }
    const Floats &values() {
        for (size_t i = 0; in_bf16 && i < values_.size(); ++i) values_[i] = scriven::float_of_bf16(rounded_[i]);
        return values_;
    }

  private:
    Floats values_;
    std::vector<uint16_t> rounded_;
};

void check(const char *what, double error, double most) {
    if (error <= most) return;
    std::fprintf(stderr, "%s%s: off by %g\n", what, in_bf16 ? " in bf16" : "", error);
    failed = true;
}

// How far results may be from exact ones: the first in fp32, the second in bf16.
double most(double in_fp32, double rounded) { return in_bf16 ? rounded : in_fp32; }

template <class Found, class Expected> double distance(const Found &found, const Expected &expected) {
    double apart = 0, size = 1e-3;
    for (size_t i = 0; i < found.size(); ++i) {
        apart += (found[i] - expected[i]) * (found[i] - expected[i]);
        size += double(expected[i]) * expected[i];
    }
    return std::sqrt(apart / size);
}

template <class Value> uint64_t digest(const std::vector<Value> &values) {  // FNV-1a
    uint64_t hash = 14695981039346656037u;
    const auto *bytes = reinterpret_cast<const unsigned char *>(values.data());
    for (size_t i = 0; i < values.size() * sizeof(Value); ++i) hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

struct Layer {
    int64_t cell, gates, kept, steps, rows, cells;
    Floats input, weight, bias, h, c;
    std::vector<uint8_t> fresh;
    bool relu = false;

    double bound(double x) const { return relu ? std::fmax(x, 0.0) : std::tanh(x); }
    int64_t states() const { return rows * cells; }

    // All outputs from the input and the weights given.
    Reals slowly(const Reals &x, const Reals &w) const {
        Reals before(h.begin(), h.end()), carry(c.begin(), c.end()), outputs;
        for (int64_t t = 0; t < steps; ++t) {
            Reals after(before.size());
            for (int64_t n = 0; n < rows; ++n) {
                for (int64_t i = 0; fresh[t * rows + n] && i < cells; ++i) before[n * cells + i] = carry[n * cells + i] = 0;
                for (int64_t i = 0; i < cells; ++i) after[n * cells + i] = one(x, w, before, carry, t, n, i);
            }
            before = after;
            outputs.insert(outputs.end(), after.begin(), after.end());
        }
        return outputs;
    }

    double one(const Reals &x, const Reals &w, const Reals &before, Reals &carry, int64_t t, int64_t n, int64_t i) const {
        double from_input[4], from_hidden[4];
        for (int64_t g = 0; g < gates; ++g) {
            from_input[g] = x[((t * rows + n) * gates + g) * cells + i];
            from_hidden[g] = cell == 1 && g == 2 ? bias[i] : 0.0;
            for (int64_t k = 0; k < cells; ++k)
                from_hidden[g] += w[(g * cells + i) * cells + k] * before[n * cells + k];
        }
        if (cell == 0) return bound(from_input[0] + from_hidden[0]);
        if (cell == 1) {
            const double z = sigmoid(from_input[1] + from_hidden[1]), r = sigmoid(from_input[0] + from_hidden[0]);
            return (1 - z) * bound(from_input[2] + r * from_hidden[2]) + z * before[n * cells + i];
        }
        double &c_now = carry[n * cells + i];
        c_now = sigmoid(from_input[1] + from_hidden[1]) * c_now +
                sigmoid(from_input[0] + from_hidden[0]) * bound(from_input[2] + from_hidden[2]);
        return sigmoid(from_input[3] + from_hidden[3]) * bound(c_now);
    }
};

Layer layer(int64_t cell, int64_t steps, int64_t rows, int64_t cells, bool relu = false) {
    const int64_t gates[] = {1, 3, 4}, kept[] = {1, 5, 6};
    Layer made{cell, gates[cell], kept[cell], steps, rows, cells, {}, {}, {}, {}, {}, {}, relu};
    made.input = drawn(steps * rows * made.gates * cells);
    made.weight = drawn(made.gates * cells * cells, 1.5 / std::sqrt(double(cells)));
    made.bias = drawn(cells), made.h = drawn(rows * cells), made.c = drawn(rows * cells);
    for (int64_t i = 0; i < steps * rows; ++i) made.fresh.push_back(random_bits() % 5 == 0);
    return made;
}

// What must be the same bits in fp32 at every level and for any number of threads, where processors round a product and
// its sum once.
uint64_t trained = 0;

template <class Value> void note(const std::vector<Value> &values) { trained = trained * 1099511628211u ^ digest(values); }

// The slope of what comes of `there`, weighted by dy, in one direction, by a small difference in double precision.
template <class Slowly> double slope_of(const Reals &there, const Floats &direction, const Floats &dy, Slowly &&slowly) {
    Reals above = there, below = there;
    for (size_t i = 0; i < there.size(); ++i) above[i] += 1e-5 * direction[i], below[i] -= 1e-5 * direction[i];
    const Reals higher = slowly(above), lower = slowly(below);
    double slope = 0;
    for (size_t i = 0; i < dy.size(); ++i) slope += dy[i] * (higher[i] - lower[i]) / 2e-5;
    return slope;
}

void check_slope(const char *what, const Floats &gradient, const Floats &direction, double expected, double rounded = 0.05) {
    double slope = 0;
    for (size_t i = 0; i < gradient.size(); ++i) slope += double(gradient[i]) * direction[i];
    check(what, std::fabs(expected - slope) / (std::fabs(slope) + 1), most(1e-4, rounded));
}

// A layer's steps, and the gradients of its input and of its recurrent weights.
void check_layer(int64_t threads, const Layer &it) {
    const int64_t all = it.steps * it.states(), sums = all * it.gates;
    Array input(it.input), y(all), kept(it.steps * (it.cells + 31) / 32 * 32 * it.rows * it.kept * 32);
    Floats h(it.states()), c(it.states());
    const bool has_c = it.cell == 2;
    scriven::RecurrentForward ahead{};
    ahead.threads = threads, ahead.bf16 = in_bf16, ahead.cell = it.cell, ahead.relu = it.relu;
    ahead.steps = it.steps, ahead.rows = it.rows, ahead.cells = it.cells;
    ahead.sums = input.data(), ahead.weight = it.weight.data(), ahead.bias = it.bias.data();
    ahead.fresh = it.fresh.data(), ahead.h = it.h.data(), ahead.c = has_c ? it.c.data() : nullptr;
    ahead.y = y.data(), ahead.kept = kept.data(), ahead.h_after = h.data(), ahead.c_after = has_c ? c.data() : nullptr;
    check("forward", double(scriven_recurrent_forward(&ahead)), 0);
    const Reals x(it.input.begin(), it.input.end()), w(it.weight.begin(), it.weight.end());
    check("steps", distance(y.values(), it.slowly(x, w)), most(2e-6, 6e-3));
    Array dy(drawn(all)), dsums(sums);
    const Floats none(it.states()), of_input = drawn(sums), of_weight = drawn(it.weight.size());
    Floats dh(it.states()), dc(it.states()), states = it.h, dweight(it.weight.size()), dbias(it.gates * it.cells);
    states.insert(states.end(), y.values().begin(), y.values().end());
    Array before(states);
    scriven::RecurrentBackward back{};
    back.threads = threads, back.bf16 = in_bf16, back.cell = it.cell, back.relu = it.relu;
    back.steps = it.steps, back.rows = it.rows, back.cells = it.cells;
    back.weight = it.weight.data(), back.fresh = it.fresh.data(), back.kept = kept.data(), back.dy = dy.data();
    back.h = before.data(), back.dh_after = none.data(), back.dc_after = has_c ? none.data() : nullptr;
    back.dsums = dsums.data(), back.dweight = dweight.data(), back.dbias = dbias.data();
    back.dh = dh.data(), back.dc = has_c ? dc.data() : nullptr;
    check("backward", double(scriven_recurrent_backward(&back)), 0);
    const double rounded = it.relu ? 0.15 : 0.05;  // whose slope changes where rounding changes a sum's sign
    check_slope("gradient of the input", dsums.values(), of_input,
                slope_of(x, of_input, dy.values(), [&](const Reals &other) { return it.slowly(other, w); }), rounded);
    check_slope("gradient of the weights", dweight, of_weight,
                slope_of(w, of_weight, dy.values(), [&](const Reals &other) { return it.slowly(x, other); }), rounded);
    note(y.values()), note(h), note(dsums.values()), note(dh), note(dweight), note(dbias);
}

Reals product(const Floats &left, const Floats &right, int64_t rows, int64_t columns, int64_t depth, bool turned) {
    Reals made;
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            double sum = 0;
            for (int64_t k = 0; k < depth; ++k)
                sum += double(left[i * depth + k]) * right[turned ? j * depth + k : k * columns + j];
            made.push_back(sum);
        }
    return made;
}

// k rows of m values times a weight (n, m) turned, and back.
void check_projection(int64_t threads, int64_t k, int64_t m, int64_t n) {
    Array x(drawn(k * m));
    const Floats weight = drawn(n * m), bias(n, 1.0f);
    Array dy(drawn(k * n)), y(k * n), dx(k * m);
    const scriven::Projection ahead{threads, in_bf16, k, m, n, true, x.data(), weight.data(), bias.data(), y.data()};
    check("projection", double(scriven_projection(&ahead)), 0);
    Reals expected = product(x.values(), weight, k, n, m, true);
    for (double &each : expected) each += 1;
    check("projection", distance(y.values(), expected), most(2e-6, 6e-3));
    const scriven::Projection back{threads, in_bf16, k, n, m, false, dy.data(), weight.data(), nullptr, dx.data()};
    check("input gradient", double(scriven_projection(&back)), 0);
    check("input gradient", distance(dx.values(), product(dy.values(), weight, k, m, n, false)), most(2e-6, 6e-3));
    note(y.values()), note(dx.values());
}

// An output layer: its losses, and the gradients of what it reads.
void check_losses(int64_t threads, int64_t rows, int64_t inputs, int64_t symbols) {
    Array y(drawn(rows * inputs));
    const Floats weight = drawn(symbols * inputs, 0.5), ones(rows, 1.0f);
    std::vector<int64_t> targets;
    for (int64_t i = 0; i < rows; ++i) targets.push_back(int64_t(random_bits()) % symbols);
    const int64_t chunks = scriven_cross_entropy_chunks(in_bf16, inputs, symbols);
    const int64_t width = scriven_cross_entropy_width(symbols);
    Array kept(rows * width), dy(rows * inputs);
    Floats losses(rows), factors(rows * chunks), dweight(width * inputs), dbias(width);
    const scriven::CrossEntropyForward ahead{threads, in_bf16, rows, inputs, symbols, y.data(), weight.data(), nullptr, targets.data(),
                                             losses.data(), kept.data(), factors.data()};
    check("losses", double(scriven_cross_entropy_forward(&ahead)), 0);
    const scriven::CrossEntropyBackward back{threads, in_bf16, rows, inputs, symbols, y.data(), weight.data(), targets.data(),
                                             factors.data(), ones.data(), kept.data(), dy.data(), dweight.data(), dbias.data()};
    check("losses", double(scriven_cross_entropy_backward(&back)), 0);
    const Reals logits = product(y.values(), weight, rows, symbols, inputs, true);
    Reals expected, slopes(rows * inputs);
    for (int64_t row = 0; row < rows; ++row) {
        double total = 0;
        const double *own = logits.data() + row * symbols;
        for (int64_t i = 0; i < symbols; ++i) total += std::exp(own[i]);
        expected.push_back(std::log(total) - own[targets[row]]);
        for (int64_t i = 0; i < symbols; ++i)
            for (int64_t k = 0; k < inputs; ++k)
                slopes[row * inputs + k] += (std::exp(own[i]) / total - (i == targets[row])) * weight[i * inputs + k];
    }
    check("losses", distance(losses, expected), most(2e-6, 2e-3));
    check("gradient of losses", distance(dy.values(), slopes), most(2e-6, 6e-3));
    note(losses), note(dy.values()), note(factors);
}

// Muon makes the singular values of a matrix nearly equal, so that its rows or columns are nearly orthogonal.
void check_muon(int64_t threads, int64_t rows, int64_t columns) {
    const Floats gradient = drawn(rows * columns);
    Floats momentum(rows * columns);
    Array update(rows * columns);
    const float *gradients = gradient.data();
    float *momenta = momentum.data();
    void *updates = update.data();
    const int64_t steps[] = {2, 2, 1};
    scriven::MuonUpdate call{};
    call.threads = threads, call.bf16 = in_bf16, call.count = 1, call.rows = rows, call.columns = columns, call.turns = 3, call.steps = steps;
    call.scale = 1, call.momentum = 0.5, call.epsilon = 1e-7f, call.a = 3.4445f, call.b = -4.7750f, call.c = 2.0315f;
    call.gradients = &gradients, call.momenta = &momenta, call.updates = &updates;
    check("muon", double(scriven_muon_update(&call)), 0);
    double size = 0;
    for (float value : update.values()) size += double(value) * value;
    const double least = double(rows < columns ? rows : columns);
    check("muon", std::fabs(size / least - 0.85), 0.45);  // each singular value is between 0.6 and 1.2
    note(momentum), note(update.values());
}

// A model that is trained to predict the next symbol: an LSTM whose input is a table, and an output layer.
struct Model {
    static constexpr int64_t symbols = 20, cells = 40, steps = 16, rows = 12, gates = 4 * cells;
    Floats values = drawn(symbols * gates + gates * cells + symbols * cells, 0.15);  // table, recurrent weights, output's
    Floats gradient = Floats(values.size()), mean = Floats(values.size()), square = Floats(values.size());
    Floats h = Floats(rows * cells), c = Floats(rows * cells);

    // The mean loss of a chunk of ids (steps + 1, rows), and one step of AdamW, the `number`th.
    double step(const std::vector<int64_t> &ids, int number) {
        const int64_t all = steps * rows;
        float *weight = values.data() + symbols * gates, *out = weight + gates * cells;
        Array table(Floats(values.begin(), values.begin() + symbols * gates));
        Array y(all * cells), kept(all * 6 * 64), dy(all * cells);
        Floats h_after(rows * cells), c_after(rows * cells), none(rows * cells), dh(rows * cells), dc(rows * cells);
        scriven::RecurrentForward ahead{};
        ahead.threads = 2, ahead.bf16 = in_bf16, ahead.cell = 2, ahead.steps = steps, ahead.rows = rows, ahead.cells = cells;
        ahead.symbols = symbols, ahead.sums = table.data(), ahead.ids = ids.data(), ahead.weight = weight;
        ahead.h = h.data(), ahead.c = c.data(), ahead.y = y.data(), ahead.kept = kept.data();
        ahead.h_after = h_after.data(), ahead.c_after = c_after.data();
        check("training", double(scriven_recurrent_forward(&ahead)), 0);
        const int64_t width = scriven_cross_entropy_width(symbols);
        Array likely(all * width);
        Floats losses(all), factors(all * scriven_cross_entropy_chunks(in_bf16, cells, symbols)), shares(all, 1.0f / all);
        const int64_t *targets = ids.data() + rows;
        const scriven::CrossEntropyForward costs{2, in_bf16, all, cells, symbols, y.data(), out, nullptr, targets,
                                                 losses.data(), likely.data(), factors.data()};
        check("training", double(scriven_cross_entropy_forward(&costs)), 0);
        Floats output(width * cells), dbias(width), states = h;  // with rows of symbols that there are not
        const scriven::CrossEntropyBackward slopes{2, in_bf16, all, cells, symbols, y.data(), out, targets, factors.data(),
                                                   shares.data(), likely.data(), dy.data(), output.data(), dbias.data()};
        check("training", double(scriven_cross_entropy_backward(&slopes)), 0);
        float *of_weight = gradient.data() + symbols * gates;
        std::copy(output.begin(), output.begin() + symbols * cells, of_weight + gates * cells);
        states.insert(states.end(), y.values().begin(), y.values().end());
        Array before(states);
        scriven::RecurrentBackward back{};
        back.threads = 2, back.bf16 = in_bf16, back.cell = 2, back.steps = steps, back.rows = rows, back.cells = cells;
        back.symbols = symbols, back.ids = ids.data(), back.weight = weight, back.h = before.data(), back.kept = kept.data();
        back.dy = dy.data(), back.dsums = gradient.data(), back.dweight = of_weight;
        back.dh_after = back.dc_after = none.data(), back.dh = dh.data(), back.dc = dc.data();
        check("training", double(scriven_recurrent_backward(&back)), 0);
        const float *gradients = gradient.data();
        const int64_t size = int64_t(values.size());
        double old1 = 1, old2 = 1;  // what the zeros of the start still weigh in the means
        for (int i = 0; i < number; ++i) old1 *= 0.9, old2 *= 0.99;
        const scriven::AdamwStep move{2, 1, &gradients, &size, values.data(), mean.data(), square.data(), 1.0f,
                                      0.9f, 0.99f, float(0.01 / (1 - old1)), float(1 / std::sqrt(1 - old2)), 1e-8f};
        check("training", double(scriven_adamw_step(&move)), 0);
        h = h_after, c = c_after;
        double sum = 0;
        for (float loss : losses) sum += loss;
        return sum / all;
    }
};

// The mean loss of the last third of a short training.
double trained_loss() {
    random_bits.seed(3);
    Model model;
    constexpr int count = 120;
    double sum = 0;
    std::vector<int64_t> ids(2 * Model::rows, 1);
    for (int number = 1; number <= count; ++number) {
        ids.erase(ids.begin(), ids.end() - Model::rows);
        while (int64_t(ids.size()) < (Model::steps + 1) * Model::rows) {  // mostly a rule, sometimes chance
            const int64_t drawn = int64_t(random_bits()), before = ids[ids.size() - Model::rows];
            ids.push_back(drawn % 4 ? (before * 7 + 3) % Model::symbols : drawn / 4 % Model::symbols);
        }
        const double loss = model.step(ids, number);
        if (number > count - count / 3) sum += loss;
    }
    note(model.values);
    return sum / (count / 3);
}

void check_layers() {
    for (int64_t cell = 0; cell < 3; ++cell) {
        check_layer(1, layer(cell, 6, 5, 17));
        check_layer(3, layer(cell, 2, 33, 70));
        check_layer(1, layer(cell, 1, 1, 1));
    }
    check_projection(1, 1, 1, 1), check_projection(3, 101, 70, 600), check_projection(1, 50, 33, 17);
    check_losses(1, 3, 17, 31), check_losses(3, 33, 300, 700);
    check_muon(1, 33, 17), check_muon(3, 40, 130);
    for (int64_t cell = 0; cell < 3; ++cell) check_layer(2, layer(cell, 4, 9, 40, true));
}

uint64_t check_scan(const Floats &sums, const Floats &h, int64_t steps, int64_t rows, int64_t cells) {
    Floats y(steps * rows * cells);
    scriven::ScanForward call{};
    call.steps = steps, call.rows = rows, call.cells = cells, call.end = cells;
    call.sums = sums.data(), call.h = h.data(), call.y = y.data();
    scriven_scan_forward(&call);
    Reals expected, before(h.begin(), h.end());
    for (int64_t place = 0; place < steps * rows * cells; ++place) {
        const int64_t i = place % cells, from = place / cells * 2 * cells + i, at = place % (rows * cells);
        const double z = sigmoid(sums[from]), x = sums[from + cells];
        expected.push_back(before[at] = (1 - z) * before[at] + z * (x >= 0 ? x + 0.5 : sigmoid(x)));
    }
    check("scan", distance(y, expected), 2e-6);
    return digest(y);
}

uint64_t check_text() {
    std::vector<uint8_t> symbols, ids(5000);
    std::vector<int32_t> table(256);
    std::vector<int64_t> counts(256);
    for (int i = 0; i < 5000; ++i) symbols.push_back(static_cast<uint8_t>(random_bits() >> 24));
    for (int i = 0; i < 256; ++i) table[i] = (i * 7 + 3) % 256;
    scriven::TextTranslate call{};
    call.symbol_bytes = call.id_bytes = 1, call.length = 5000, call.size = 256;
    call.symbols = symbols.data(), call.table = table.data(), call.ids = ids.data(), call.counts = counts.data();
    scriven_text_translate(&call);
    double wrong = 0;
    for (int i = 0; i < 5000; ++i) wrong += ids[i] != table[symbols[i]];
    check("text", wrong, 0);
    return digest(ids);
}

// N-grams of a text that is counted in several pieces: all that a table says, in probabilities and costs.
uint64_t check_counts(int64_t symbols, int64_t longest) {
    std::vector<int64_t> ids(20'000), pruned(2 * (longest + 1));
    for (size_t i = 0; i < ids.size(); ++i)
        ids[i] = i > 2 && random_bits() % 3 ? (ids[i - 1] * 7 + ids[i - 2]) % symbols : int64_t(random_bits()) % symbols;
    void *counter = nullptr;
    scriven::CountsOpen open{};
    open.symbols = symbols, open.boundary = symbols - 1, open.longest = longest, open.total = int64_t(ids.size());
    open.budget = 400'000, open.bytes = 200'000, open.counter = &counter;
    check("counter", double(scriven_counts_open(&open)), 0);
    const scriven::CountsAdd add{int64_t(ids.size()), counter, ids.data()};
    check("counting", double(scriven_counts_add(&add)), 0);
    scriven::CountsTable table{};
    double fit[3];
    const scriven::CountsFinish finish{counter, &table, fit, pruned.data()};
    check("table", double(scriven_counts_finish(&finish)), 0);
    check("table", double(scriven_counts_check(&table)), 0);
    constexpr int64_t rows = 50, length = 20;
    Reals nats(rows * length), p(rows * symbols);
    const scriven::CountsScore score{2, rows, length, 0, &table, ids.data(), nats.data(), nullptr};
    const scriven::CountsDistribution distribution{rows, length, &table, ids.data(), p.data()};
    check("scores", double(scriven_counts_score(&score)), 0);
    check("distributions", double(scriven_counts_distribution(&distribution)), 0);
    for (int64_t row = 0; row < rows; ++row) {
        double sum = 0;
        for (int64_t i = 0; i < symbols; ++i) sum += p[row * symbols + i];
        check("sum of probabilities", std::fabs(sum - 1), 1e-12);
    }
    scriven_counts_close(counter);
    return digest(nats) ^ digest(p);
}

// The same text by every library, with one thread and with two. In fp32 portable x86 code, without fused multiply-add,
// differs in the last bit of a sum: these draws do not fall between two such bits.
void check_sampler() {
    const char *cells[] = {"rnn", "gru", "lstm", "mingru"};
    random_bits.seed(2);
    std::vector<double> uniforms(written_rows * written_count);
    for (double &uniform : uniforms) uniform = random_bits() / 4294967296.0;
    for (int64_t cell = 0; cell < 4; ++cell) {
        for (const int64_t precision : {scriven::fp32, scriven::int8}) {
            const RandomModel random(cell, precision, [](double size) { return drawn(1, size)[0]; });
            const std::vector<int64_t> ids = written(random.model, 1, uniforms);
            double wrong = ids.empty();
            for (const int64_t id : ids) wrong += id < 0 || id >= model_symbols - 1;
            check("ids", wrong, 0);
            check("text of two threads", written(random.model, 2, uniforms) != ids, 0);
            std::printf("%s %s %016llx\n", cells[cell], precision == scriven::int8 ? "int8" : "fp32",
                        static_cast<unsigned long long>(digest(ids)));
        }
    }
}

// Whether the library fuses products with sums.
bool rounds_once() {
#if defined(__aarch64__)
    return true;
#else
    return needed_features != 0;
#endif
}

}  // namespace

int main() {
    if ((scriven_features() & needed_features) != needed_features) {
        std::fprintf(stderr, "not for this processor\n");
        return 2;
    }
    const Floats sums = drawn(7 * 3 * 2 * 37, 4.0), h = drawn(3 * 37);
    std::printf("text %016llx\n", static_cast<unsigned long long>(check_text()));
    std::printf("scan %016llx\n", static_cast<unsigned long long>(check_scan(sums, h, 7, 3, 37)));
    for (const int64_t size : {40, 300})
        std::printf("counts %016llx\n", static_cast<unsigned long long>(check_counts(size, 8)));
    check_layers();
    const double loss = trained_loss();
    check("loss of a training", loss, 0.6 * std::log(double(Model::symbols)));
    if (rounds_once()) std::printf("trained %016llx\n", static_cast<unsigned long long>(trained));
    if (needed_features & (scriven::has_avx512_bf16 | scriven::has_neon_bf16)) {
        in_bf16 = true;
        check_layers();
        const double rounded = trained_loss();
        std::fprintf(stderr, "mean loss %.5f in fp32, %.5f in bf16\n", loss, rounded);
        check("loss of a training", std::fabs(rounded - loss), 3e-3);
        in_bf16 = false;
    }
    check_sampler();
    return failed;
}
