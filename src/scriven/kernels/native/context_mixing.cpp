// A model that learns while it reads, as Python calls it, and a coder of what it predicts: see kernels/context_mixing.py.
#include <chrono>

#include "context_mixing.h"
#include "counts.h"
#include "forward_step.h"
#include "workspace.h"

namespace scriven {
namespace {

// A coder of bits in 32-bit arithmetic, after fpaq0 (Mahoney 2003). A file is a number from `low` to `high`. A one keeps
// the lower part of this range, a zero the upper part, as large as their probabilities.
//
// Reading gives the same bits: while the first bytes of both ends agree they are written and shifted out, so `low` is
// below `high`, and `middle` is from `low` to `high` - 1, as p is from 1 to 65535. Neither part is empty, they do not
// overlap, and together they are the whole. So the number is in the part of the bit that was written, and in no other.
struct RangeCoder {
    uint32_t low = 0, high = 0xffffffff, read = 0;

    // The last number of the lower part.
    uint32_t middle(int probability) const {
        return low + uint32_t(uint64_t(high - low) * uint64_t(probability) >> 16);
    }
    void narrow(int bit, uint32_t middle) {
        if (bit) high = middle;
        else low = middle + 1;
    }
    bool settled() const { return (low ^ high) < 1 << 24; }
    void shift(uint8_t next) {
        low <<= 8;
        high = high << 8 | 255;
        read = read << 8 | next;
    }
};

// Says whether the next stretch of a text is read by one thread or by many, which may lose: with another program on one of
// two cores they take four times as long. Each way is tried now and then, and the faster one is taken in between.
class Pace {
  public:
    bool together() const {
        const int64_t tried = stretches_ % between_trials;
        return tried < 2 ? tried == 1 : seconds_[true] < seconds_[false];
    }
    // Calls work(), which takes so many symbols in the way that `together` says.
    template <class Function> void measure(int64_t symbols, Function &&work) {
        const auto begun = std::chrono::steady_clock::now();
        work();
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
        seconds_[together()] = took.count() / double(symbols);
        stretches_++;
    }
    static constexpr int64_t stretch = 1024;  // symbols

  private:
    static constexpr int64_t between_trials = 64;
    int64_t stretches_ = 0;
    double seconds_[2] = {};  // for a symbol, the last time: by one thread, and together
};

// A network that reads the same symbols. In int8 it gives the same bits on every processor, in pieces of any size, and by
// any number of threads, which share its weights.
class Network {
  public:
    Network(const PackedModel &model, int64_t threads)
        : model_(model), threads_(std::min(threads, most_threads)), frequencies_(model.symbols) {
        lay_out();
        failed_ = !frequencies_ || !arena_.allocate();
        if (!failed_) lay_out();
    }
    bool failed() const { return failed_; }

    // Calls work(begin, end) for stretches of `count` symbols. All that it reads is read by the threads together, or by
    // this one alone.
    template <class Function> void lead(int64_t count, Function &&work) {
        for (int64_t begin = 0; begin < count; begin += Pace::stretch) {
            const int64_t end = std::min(begin + Pace::stretch, count);
            pace_.measure(end - begin, [&] {
                run(pace_.together() ? threads_ : 1, [&](const Member &member) {
                    Work &own = works_[member.index];
                    own.member = member;
                    if (member.index == 0) {
                        work(begin, end);
                        next_ = none;
                        member.wait();
                    } else {
                        for (member.wait(); next_ != none; member.wait()) scriven::read(model_, own, &next_, true);
                    }
                });
            });
        }
    }

    // Its prediction of the next symbol (V,), of 2^24ths; null before it has read any.
    const uint32_t *predict() {
        if (!begun_) return nullptr;
        weigh(works_->logits, weights_, model_.symbols, 1.0);
        double sum = 0;
        for (int64_t i = 0; i < model_.symbols; i++) sum += weights_[i];
        for (int64_t i = 0; i < model_.symbols; i++) frequencies_[i] = 1 + uint32_t(weights_[i] / sum * 16777216.0);
        return frequencies_;
    }
    void read(int64_t id) {
        next_ = id;
        works_->member.wait();
        scriven::read(model_, *works_, &next_, true);
        begun_ = true;
    }

  private:
    static constexpr int64_t most_threads = 16, none = -1;

    void lay_out() {
        for (int64_t i = 0; i < threads_; i++) {
            works_[i] = lay_out_work(model_, 1, arena_, i == 0);
            if (i) works_[i].state = works_->state;
        }
        float *logits = arena_.take<float>(works_->logits_stride);
        for (int64_t i = 0; i < threads_; i++) works_[i].logits = logits;
        weights_ = arena_.take<double>(works_->logits_stride);
    }

    const PackedModel &model_;
    const int64_t threads_;
    Arena arena_;
    Work works_[most_threads];  // of each thread; the state and the logits are the same
    int64_t next_ = none;       // the id that all read now
    Pace pace_;
    double *weights_;
    Buffer<uint32_t> frequencies_;
    bool failed_, begun_ = false;
};

}  // namespace

// What scriven_context_mixing_open makes.
struct ContextMixing {
    ContextMixer mixer;
    int64_t symbols;
    RangeCoder coder = {};
    int64_t taken = 0;  // bytes of what is decoded
    std::unique_ptr<Network> network = nullptr;

    // Takes the next symbol, which is number i of a call.
    template <class Code> int64_t take(const uint32_t *frequencies, int others, int64_t i, Code &&code) {
        if (!network) return mixer.take(frequencies + i * others * symbols, others, code);
        const uint32_t *predicted = network->predict();
        const int64_t symbol = mixer.take(predicted, predicted != nullptr, code);
        network->read(symbol);
        return symbol;
    }
    // Calls work(i) for each of the next `count` symbols, which takes it.
    template <class Function> void for_each(int64_t count, Function &&work) {
        const auto several = [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) work(i);
        };
        if (network) network->lead(count, several);
        else several(0, count);
    }
};

}  // namespace scriven

SCRIVEN_API int64_t scriven_context_mixing_open(const scriven::ContextMixingOpen *call) {
    using namespace scriven;
    if (call->symbols < 1 || call->symbols > 65536 || call->memory_bits < 16 || call->memory_bits > 34) return bad_argument;
    auto *made = new (std::nothrow)
        ContextMixing{{call->symbols, call->kinds, call->memory_bits}, call->symbols};
    if (made && made->mixer.failed()) {
        delete made;
        made = nullptr;
    }
    *call->mixing = made;
    return made ? ok : no_memory;
}

// Makes a model, which must be closed too, that has read the same symbols and goes on by itself; no network takes part.
SCRIVEN_API int64_t scriven_context_mixing_copy(const void *mixing, void **copied) {
    using namespace scriven;
    const auto &other = *static_cast<const ContextMixing *>(mixing);
    if (other.network) return bad_argument;
    auto *made = new (std::nothrow) ContextMixing{other.mixer, other.symbols, other.coder, other.taken};
    if (made && made->mixer.failed()) {
        delete made;
        made = nullptr;
    }
    *copied = made;
    return made ? ok : no_memory;
}

// Lets a network in int8 take part from the beginning, in place of other frequencies; it must outlive the mixing.
SCRIVEN_API int64_t scriven_context_mixing_join(void *mixing, const scriven::PackedModel *model, int64_t threads) {
    using namespace scriven;
    auto &joined = *static_cast<ContextMixing *>(mixing);
    if (threads < 1 || model->precision != int8 || model->symbols < joined.symbols || model->symbols < 2) return bad_argument;
    joined.network.reset(new (std::nothrow) Network(*model, threads));
    if (joined.network && !joined.network->failed()) return ok;
    joined.network.reset();
    return no_memory;
}

SCRIVEN_API int64_t scriven_context_mixing_close(void *mixing) {
    delete static_cast<scriven::ContextMixing *>(mixing);
    return scriven::ok;
}

SCRIVEN_API int64_t scriven_context_mixing_read(const scriven::ContextMixingRead *call) {
    using namespace scriven;
    auto &mixing = *static_cast<ContextMixing *>(call->mixing);
    if (call->others < 0 || call->others > ContextMixer::most_others || (call->others && !call->frequencies))
        return bad_argument;
    for (int64_t i = 0; i < call->count; i++)
        if (!mixing.mixer.knows(call->ids[i])) return bad_argument;
    mixing.for_each(call->count, [&](int64_t i) {
        double nats = 0;
        mixing.take(call->frequencies, int(call->others), i, [&](int p, int place) {
            const int bit = int(call->ids[i] >> place & 1);
            nats -= logarithm(double(bit ? p : 65536 - p) / 65536);
            return bit;
        });
        call->nats[i] = nats;
    });
    return ok;
}

SCRIVEN_API int64_t scriven_context_mixing_observe(const scriven::ContextMixingObserve *call) {
    using namespace scriven;
    auto &mixing = *static_cast<ContextMixing *>(call->mixing);
    if (mixing.network) return bad_argument;
    for (int64_t i = 0; i < call->count; i++)
        if (!mixing.mixer.knows(call->ids[i])) return bad_argument;
    for (int64_t i = 0; i < call->count; i++) mixing.mixer.observe(call->ids[i]);
    return ok;
}

SCRIVEN_API int64_t scriven_context_mixing_distribution(const scriven::ContextMixingDistribution *call) {
    using namespace scriven;
    auto &mixing = *static_cast<ContextMixing *>(call->mixing);
    if (mixing.network || call->others < 0 || call->others > ContextMixer::most_others ||
        (call->others && !call->frequencies))
        return bad_argument;
    Journal journal(ContextMixer::journal_bytes);
    if (journal.failed()) return no_memory;
    mixing.mixer.distribute(call->frequencies, int(call->others), call->probabilities, journal);
    return ok;
}

SCRIVEN_API int64_t scriven_context_mixing_encode(const scriven::ContextMixingEncode *call) {
    using namespace scriven;
    auto &mixing = *static_cast<ContextMixing *>(call->mixing);
    for (int64_t i = 0; i < call->count; i++)
        if (!mixing.mixer.knows(call->ids[i])) return bad_argument;
    RangeCoder &coder = mixing.coder;
    uint8_t *to = call->bytes;
    mixing.for_each(call->count, [&](int64_t i) {
        mixing.take(call->frequencies, call->frequencies != nullptr, i, [&](int p, int place) {
            const int bit = int(call->ids[i] >> place & 1);
            coder.narrow(bit, coder.middle(p));
            for (; coder.settled(); coder.shift(0)) *to++ = uint8_t(coder.high >> 24);
            return bit;
        });
    });
    if (call->last) *to++ = uint8_t((coder.low >> 24) + 1);  // and then zeros, which no file needs
    *call->written = to - call->bytes;
    return ok;
}

SCRIVEN_API int64_t scriven_context_mixing_decode(const scriven::ContextMixingDecode *call) {
    using namespace scriven;
    auto &mixing = *static_cast<ContextMixing *>(call->mixing);
    RangeCoder &coder = mixing.coder;
    const auto next = [&] {
        const int64_t at = mixing.taken++;
        return at < call->size ? call->bytes[at] : uint8_t(0);
    };
    if (!mixing.taken)
        for (int i = 0; i < 4; i++) coder.read = coder.read << 8 | next();
    mixing.for_each(call->count, [&](int64_t i) {
        call->ids[i] = mixing.take(call->frequencies, call->frequencies != nullptr, i, [&](int p, int) {
            const uint32_t middle = coder.middle(p);
            const int bit = coder.read <= middle;
            coder.narrow(bit, middle);
            while (coder.settled()) coder.shift(next());
            return bit;
        });
    });
    return ok;
}
