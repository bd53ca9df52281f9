#include "cpp/attention/attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <type_traits>
#include <vector>

#include "cpp/base/aligned.hpp"
#include "cpp/base/half.hpp"
#include "cpp/base/parallel.hpp"
#include "cpp/simd/levels.hpp"

namespace mosaicmem {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr std::size_t kGroup = kGroupPanels * kPanelQueries;

AlignedArray<float> zeros(std::size_t n) {
    auto floats = aligned_array<float>(n);
    std::fill_n(floats.get(), n, 0.0f);
    return floats;
}

// Times relative to the first key, in half-lives times ln 2: small, so that float32 is accurate.
std::vector<float> as_logits(const double* times, std::size_t n, double origin, double half_life) {
    std::vector<float> out(n);
    for (std::size_t i = 0; i < n; ++i) {
        out[i] = static_cast<float>((times[i] - origin) * (std::numbers::ln2 / half_life));
    }
    return out;
}

}  // namespace

template <class T>
void attention(const AttentionShape& shape, const AttentionInput<T>& input, T* out,
               const HeadStrides& out_strides, float* lse, int num_threads) {
    std::vector<float> query_time, key_time;
    if (input.key_time && shape.keys > 0) {
        const double origin = input.key_time[0];
        query_time = as_logits(input.query_time, shape.queries, origin, input.half_life);
        key_time = as_logits(input.key_time, shape.keys, origin, input.half_life);
    }
    constexpr bool kSingle = std::is_same_v<T, float>;
    const Kernels& level = kernels();
    const auto attend = kSingle ? level.attend_float32 : level.attend_bfloat16;
    const std::size_t scratch_floats =
        (kSingle ? level.scratch_float32 : level.scratch_bfloat16)(shape.head_dim, shape.value_dim);
    const std::size_t groups = (shape.queries + kGroup - 1) / kGroup;
    const std::size_t work = shape.keys * kGroup * (shape.head_dim + shape.value_dim);
    const std::size_t grain = (1 << 24) / (work + 1) + 1;
    parallel_for(
        shape.batch * shape.heads * groups, grain, num_threads,
        [&](std::size_t begin, std::size_t end) {
            const auto scratch = zeros(scratch_floats);
            for (std::size_t item = begin; item < end; ++item) {
                const std::size_t batch = item / groups / shape.heads;
                const std::size_t head = item / groups % shape.heads;
                const std::size_t key_head = head / (shape.heads / shape.key_heads);
                // Groups of nearly equal size, so that threads finish together.
                const std::size_t group = item % groups;
                const std::size_t panels = (shape.queries + kPanelQueries - 1) / kPanelQueries;
                const std::size_t first = panels * group / groups * kPanelQueries;
                const std::size_t last =
                    std::min(panels * (group + 1) / groups * kPanelQueries, shape.queries);
                const auto at = [&](const auto* data, const HeadStrides& strides, std::size_t h) {
                    return data + batch * strides.batch + h * strides.head;
                };
                AttentionTask task;
                task.q = at(input.q, input.q_strides, head) + first * input.q_strides.token;
                task.k = at(input.k, input.k_strides, key_head);
                task.v = at(input.v, input.v_strides, key_head);
                task.out = out + batch * out_strides.batch + head * out_strides.head +
                           first * out_strides.token;
                task.q_stride = input.q_strides.token;
                task.k_stride = input.k_strides.token;
                task.v_stride = input.v_strides.token;
                task.out_stride = out_strides.token;
                task.queries = last - first;
                task.keys = shape.keys;
                task.head_dim = shape.head_dim;
                task.value_dim = shape.value_dim;
                task.scale = input.scale;
                task.key_mask = input.key_mask ? input.key_mask + batch * shape.keys : nullptr;
                task.key_bias = input.key_bias ? input.key_bias + batch * shape.keys : nullptr;
                task.query_time = query_time.empty() ? nullptr : query_time.data() + first;
                task.key_time = query_time.empty() ? nullptr : key_time.data();
                task.lse =
                    lse ? lse + (batch * shape.heads + head) * shape.queries + first : nullptr;
                task.scratch = scratch.get();
                attend(task);
            }
        });
}

template <class T>
void merge_attention(const PartialAttention<T>& a, const PartialAttention<T>& b, std::size_t rows,
                     std::size_t value_dim, T* out, float* lse) {
    const auto read = [](T x) {
        if constexpr (std::is_same_v<T, float>)
            return x;
        else
            return from_bfloat16(x);
    };
    for (std::size_t row = 0; row < rows; ++row) {
        const float top = std::max(a.lse[row], b.lse[row]);
        const bool none = top == kMinusInfinity;
        const float of_a = none ? 0.0f : std::exp(a.lse[row] - top);
        const float of_b = none ? 0.0f : std::exp(b.lse[row] - top);
        const float total = of_a + of_b;
        lse[row] = none ? kMinusInfinity : top + std::log(total);
        const float share_a = none ? 0.0f : of_a / total, share_b = none ? 0.0f : of_b / total;
        for (std::size_t d = row * value_dim; d < (row + 1) * value_dim; ++d) {
            const float merged = share_a * read(a.out[d]) + share_b * read(b.out[d]);
            if constexpr (std::is_same_v<T, float>)
                out[d] = merged;
            else
                out[d] = to_bfloat16(merged);
        }
    }
}

template void attention<float>(const AttentionShape&, const AttentionInput<float>&, float*,
                               const HeadStrides&, float*, int);
template void attention<std::uint16_t>(const AttentionShape&, const AttentionInput<std::uint16_t>&,
                                       std::uint16_t*, const HeadStrides&, float*, int);
template void merge_attention<float>(const PartialAttention<float>&, const PartialAttention<float>&,
                                     std::size_t, std::size_t, float*, float*);
template void merge_attention<std::uint16_t>(const PartialAttention<std::uint16_t>&,
                                             const PartialAttention<std::uint16_t>&, std::size_t,
                                             std::size_t, std::uint16_t*, float*);

}  // namespace mosaicmem
