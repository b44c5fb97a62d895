// The native kernels of one library against slow obvious code, without Python: for processors that are emulated, and for
// sanitizers. The build makes a program of it for each library, named SCRIVEN_VARIANT. Prints what all programs and
// processors must agree on to the last bit. Ends with 1 where a result is wrong, and with 2 where this processor cannot
// run the library. `make processors` runs it.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "../../src/scriven/kernels/native/common.h"
#include "check_sampler.h"

extern "C" {
int64_t scriven_features();
int64_t scriven_scan_forward(const scriven::ScanForward *);
int64_t scriven_steps_forward(const scriven::StepsForward *);
int64_t scriven_steps_backward(const scriven::StepsBackward *);
int64_t scriven_product_fp32(const scriven::ProductFp32 *);
int64_t scriven_text_translate(const scriven::TextTranslate *);
int64_t scriven_counts_open(const scriven::CountsOpen *);
int64_t scriven_counts_add(const scriven::CountsAdd *);
int64_t scriven_counts_finish(const scriven::CountsFinish *);
int64_t scriven_counts_check(const scriven::CountsTable *);
int64_t scriven_counts_score(const scriven::CountsScore *);
int64_t scriven_counts_distribution(const scriven::CountsDistribution *);
void scriven_counts_close(void *);
}

namespace {

// What each library needs, as native_library.VARIANTS says.
namespace needed {
using namespace scriven;
[[maybe_unused]] constexpr int64_t portable = 0, avx2 = has_avx2, avxvnni = avx2 | has_avx_vnni;
[[maybe_unused]] constexpr int64_t avx512 = avx2 | has_avx512 | has_avx512_vnni;
[[maybe_unused]] constexpr int64_t avx512bf16 = avx512 | has_avx512_bf16, amx = avx512bf16 | has_amx;
constexpr int64_t here = SCRIVEN_VARIANT;
}  // namespace needed

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

void check(const char *what, double error, double most) {
    if (error <= most) return;
    std::fprintf(stderr, "%s: off by %g\n", what, error);
    failed = true;
}

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

    int64_t states() const { return rows * cells; }

    // All outputs, and the state after the last step, from the input given.
    Reals slowly(const Reals &x) const {
        Reals before(h.begin(), h.end()), carry(c.begin(), c.end()), outputs;
        for (int64_t t = 0; t < steps; ++t) {
            Reals after(before.size());
            for (int64_t n = 0; n < rows; ++n) {
                for (int64_t i = 0; fresh[t * rows + n] && i < cells; ++i) before[n * cells + i] = carry[n * cells + i] = 0;
                for (int64_t i = 0; i < cells; ++i) after[n * cells + i] = one(x, before, carry, t, n, i);
            }
            before = after;
            outputs.insert(outputs.end(), after.begin(), after.end());
        }
        return outputs;
    }

    double one(const Reals &x, const Reals &before, Reals &carry, int64_t t, int64_t n, int64_t i) const {
        double from_input[4], from_hidden[4];
        for (int64_t g = 0; g < gates; ++g) {
            from_input[g] = x[((t * rows + n) * gates + g) * cells + i];
            from_hidden[g] = cell == 1 && g == 2 ? bias[i] : 0.0;
            for (int64_t k = 0; k < cells; ++k)
                from_hidden[g] += weight[(g * cells + i) * cells + k] * before[n * cells + k];
        }
        if (cell == 0) return std::tanh(from_input[0] + from_hidden[0]);
        if (cell == 1) {
            const double z = sigmoid(from_input[1] + from_hidden[1]), r = sigmoid(from_input[0] + from_hidden[0]);
            return (1 - z) * std::tanh(from_input[2] + r * from_hidden[2]) + z * before[n * cells + i];
        }
        double &c_now = carry[n * cells + i];
        c_now = sigmoid(from_input[1] + from_hidden[1]) * c_now +
                sigmoid(from_input[0] + from_hidden[0]) * std::tanh(from_input[2] + from_hidden[2]);
        return sigmoid(from_input[3] + from_hidden[3]) * std::tanh(c_now);
    }
};

Layer layer(int64_t cell, int64_t steps, int64_t rows, int64_t cells) {
    const int64_t gates[] = {1, 3, 4}, kept[] = {1, 5, 6};
    Layer made{cell, gates[cell], kept[cell], steps, rows, cells, {}, {}, {}, {}, {}, {}};
    made.input = drawn(steps * rows * made.gates * cells);
    made.weight = drawn(made.gates * cells * cells, 1.5 / std::sqrt(double(cells)));
    made.bias = drawn(cells), made.h = drawn(rows * cells), made.c = drawn(rows * cells);
    for (int64_t i = 0; i < steps * rows; ++i) made.fresh.push_back(random_bits() % 5 == 0);
    return made;
}

// Steps and their gradients: the gradients against a small difference in one direction, in double precision.
void check_steps(int64_t threads, const Layer &it) {
    const int64_t all = it.steps * it.states(), sums = all * it.gates;
    Floats y(all), kept(it.steps * (it.cells + 31) / 32 * 32 * it.rows * it.kept * 32), h(it.states()), c(it.states());
    const bool has_c = it.cell == 2;
    scriven::StepsForward ahead{};
    ahead.threads = threads, ahead.cell = it.cell, ahead.steps = it.steps, ahead.rows = it.rows, ahead.cells = it.cells;
    ahead.sums = it.input.data(), ahead.weight = it.weight.data(), ahead.bias = it.bias.data();
    ahead.fresh = it.fresh.data(), ahead.h = it.h.data(), ahead.c = has_c ? it.c.data() : nullptr;
    ahead.y = y.data(), ahead.kept = kept.data(), ahead.h_after = h.data(), ahead.c_after = has_c ? c.data() : nullptr;
    scriven_steps_forward(&ahead);
    const Reals x(it.input.begin(), it.input.end());
    check("steps", distance(y, it.slowly(x)), 2e-6);
    const Floats dy = drawn(all), none(it.states()), direction = drawn(sums);
    Floats dinput(sums), dhidden(sums), dh(it.states()), dc(it.states());
    scriven::StepsBackward back{};
    back.threads = threads, back.cell = it.cell, back.steps = it.steps, back.rows = it.rows, back.cells = it.cells;
    back.weight = it.weight.data(), back.fresh = it.fresh.data(), back.kept = kept.data(), back.dy = dy.data();
    back.dh_after = none.data(), back.dc_after = has_c ? none.data() : nullptr;
    back.dsums = dinput.data(), back.dhidden = it.cell == 1 ? dhidden.data() : nullptr;
    back.dh = dh.data(), back.dc = has_c ? dc.data() : nullptr;
    scriven_steps_backward(&back);
    Reals above = x, below = x;
    for (int64_t i = 0; i < sums; ++i) above[i] += 1e-5 * direction[i], below[i] -= 1e-5 * direction[i];
    const Reals higher = it.slowly(above), lower = it.slowly(below);
    double difference = 0, slope = 0;
    for (int64_t i = 0; i < all; ++i) difference += dy[i] * (higher[i] - lower[i]) / 2e-5;
    for (int64_t i = 0; i < sums; ++i) slope += double(dinput[i]) * direction[i];
    check("gradients", std::fabs(difference - slope) / (std::fabs(slope) + 1), 1e-4);
}

// A product whose factors may come turned, with a bias, skipped rows and the sums of its left factor.
void check_product(int64_t threads, int64_t rows, int64_t columns, int64_t depth, bool left_turned, bool right_turned) {
    const Floats left = drawn(rows * depth), right = drawn(depth * columns), bias = drawn(columns);
    std::vector<uint8_t> skip(depth);
    for (uint8_t &each : skip) each = random_bits() % 5 == 0;
    Floats out(rows * columns), sums(rows);
    scriven::ProductFp32 call{};
    call.threads = threads, call.rows = rows, call.columns = columns, call.depth = depth;
    call.left_turned = left_turned, call.right_turned = right_turned;
    call.left = left.data(), call.right = right.data(), call.bias = bias.data(), call.skip = skip.data();
    call.out = out.data(), call.sums = left_turned ? sums.data() : nullptr;
    check("product", double(scriven_product_fp32(&call)), 0);
    Reals expected, totals(rows);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            expected.push_back(bias[j]);
            for (int64_t k = 0; k < depth; ++k) {
                const double x = left[left_turned ? k * rows + i : i * depth + k];
                if (j == 0 && left_turned) totals[i] += x;
                if (!skip[k]) expected.back() += x * right[right_turned ? j * depth + k : k * columns + j];
            }
        }
    check("product", distance(out, expected), 2e-6);
    check("sums", distance(sums, totals), 2e-5);
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
    const scriven::CountsScore score{2, rows, length, 0, &table, ids.data(), nats.data()};
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

}  // namespace

int main() {
    if ((scriven_features() & needed::here) != needed::here) {
        std::fprintf(stderr, "not for this processor\n");
        return 2;
    }
    const Floats sums = drawn(7 * 3 * 2 * 37, 4.0), h = drawn(3 * 37);
    std::printf("text %016llx\n", static_cast<unsigned long long>(check_text()));
    std::printf("scan %016llx\n", static_cast<unsigned long long>(check_scan(sums, h, 7, 3, 37)));
    for (const int64_t size : {40, 300})
        std::printf("counts %016llx\n", static_cast<unsigned long long>(check_counts(size, 8)));
    for (int64_t cell = 0; cell < 3; ++cell) {
        check_steps(1, layer(cell, 6, 5, 17));
        check_steps(3, layer(cell, 2, 33, 70));
        check_steps(1, layer(cell, 1, 1, 1));
    }
    for (const bool turned : {false, true}) {
        check_product(1, 1, 1, 1, turned, !turned);
        check_product(3, 101, 70, 600, turned, !turned);
        check_product(1, 50, 33, 17, turned, turned);
    }
    check_sampler();
    return failed;
}
