// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The merge of splits, against the fold of them one after the other.
#include <oriel/core/random.hpp>

#include <device/attention_machine.hpp>

#include <bit>

namespace attention_merge_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

constexpr float poison = -77.0f;

/// Shares of the rows of three sequences, and room for their outputs.
class merge_case {
 public:
  merge_case(random_stream& random,
             std::uint32_t heads,
             std::uint32_t dims,
             std::uint32_t splits_max,
             bool has_sinks)
      : heads_(heads), dims_(dims), splits_max_(splits_max) {
    // On both sides of the last split's border, of the first's, and anywhere.
    const std::uint32_t border = (splits_max - 1) * detail::split_keys;
    sequences_ = {{nullptr, 0, border - 1, rows_max},
                  {nullptr, 0, detail::split_keys - 2, rows_max},
                  {nullptr, 0, random.next_below(border), random.next_below(rows_max)}};
    sequences_[2].first_key = random.next_below(sequences_[2].first_position + 1);
    const std::uint32_t slots = rows_max * 3, shares = slots * heads * splits_max;
    for (std::uint32_t i = 0; i < shares; ++i) {
      const bool is_seen = random.next_below(8) != 0;
      weights_.push_back({is_seen ? random.next_uniform(-30.0f, 30.0f) : -INFINITY,
                          is_seen ? random.next_uniform(1.0f, 900.0f) : 0.0f});
      for (std::uint32_t d = 0; d < dims; ++d) {
        out_of_split_.push_back(is_seen ? random.next_uniform(-50.0f, 50.0f) : NAN);
      }
    }
    for (std::uint32_t slot = 0; slot < slots; ++slot) {
      batch_rows_.push_back(slots - 1 - slot);
    }
    for (std::uint32_t head = 0; head < heads && has_sinks; ++head) {
      sinks_.push_back(random.next_uniform(-20.0f, 20.0f));
    }
    out_.assign(std::size_t{slots} * heads * dims, poison);
  }

  [[nodiscard]] detail::attention_call call() {
    detail::attention_call c{};
    c.shape.q_heads = heads_;
    c.shape.head_dim_vo = dims_;
    c.args.out = out_.data();
    c.args.sequences = sequences_;
    c.args.sinks = sinks_.empty() ? nullptr : sinks_.data();
    c.partials = {out_of_split_.data(), weights_.data(), batch_rows_.data()};
    c.splits_max = splits_max_;
    c.sequence_rows_min = 1;
    c.sequence_rows_max = rows_max;
    return c;
  }

  /// What is due at an index of `out`.
  [[nodiscard]] std::vector<float> expected() const {
    std::vector<float> x(out_.size(), poison);
    for (std::uint32_t slot = 0; slot < batch_rows_.size(); ++slot) {
      if (slot % rows_max >= sequences_[slot / rows_max].rows || splits_of(slot) == 1) {
        continue;
      }
      for (std::uint32_t i = 0; i < heads_ * dims_; ++i) {
        x[std::size_t{batch_rows_[slot]} * heads_ * dims_ + i] = folded(slot, i / dims_, i % dims_);
      }
    }
    return x;
  }
  [[nodiscard]] const std::vector<float>& out() const { return out_; }

 private:
  static constexpr std::uint32_t rows_max = 3;

  [[nodiscard]] std::uint32_t splits_of(std::uint32_t slot) const {
    const paged_sequence& s = sequences_[slot / rows_max];
    const std::uint32_t position = s.first_position + slot % rows_max;
    return position / detail::split_keys - s.first_key / detail::split_keys + 1;
  }
  [[nodiscard]] float folded(std::uint32_t slot, std::uint32_t head, std::uint32_t dim) const {
    float kept_max = sinks_.empty() ? -INFINITY : sinks_[head] * detail::log2_e;
    float kept_sum = sinks_.empty() ? 0.0f : 1.0f, kept = 0.0f;
    for (std::uint32_t split = 0; split < splits_of(slot); ++split) {
      const std::size_t at = (std::size_t{slot} * heads_ + head) * splits_max_ + split;
      const detail::split_weight w = weights_[at];
      if (w.largest != -INFINITY) {
        const auto by = detail::fold_split(w.largest, w.sum, kept_max, kept_sum);
        kept = detail::fold_value(by, kept, out_of_split_[at * dims_ + dim]);
      }
    }
    return kept * (1.0f / kept_sum);
  }

  std::uint32_t heads_, dims_, splits_max_;
  std::vector<paged_sequence> sequences_;
  std::vector<float> out_of_split_, sinks_, out_;
  std::vector<detail::split_weight> weights_;
  std::vector<std::uint32_t> batch_rows_;
};

}  // namespace

TEST_CASE("the merge has the bits of a fold of one split after the other") {
  const std::uint32_t splits_max = GENERATE(2u, 9u, 16u, 17u, 33u, 128u, 129u, 300u);
  const std::uint32_t dims = GENERATE(64u, 128u);
  const bool has_sinks = GENERATE(false, true);
  // Few multiprocessors: there is work for all warps as it is, and rounds are short.
  const std::uint32_t multiprocessors = GENERATE(1u, 132u);
  random_stream random(splits_max + dims, has_sinks ? 61 : 62);
  merge_case merge(random, 5, dims, splits_max, has_sinks);
  const auto call = merge.call();
  INFO(splits_max << " splits, " << dims << " dims, sinks " << has_sinks << ", multiprocessors "
                  << multiprocessors);
  CHECK(detail::merge_shape_of(call, multiprocessors).is_deep ==
        (splits_max > 16 && multiprocessors == 132));
  merge_on_host(call, multiprocessors);
  const auto expected = merge.expected();
  std::size_t different = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    different +=
        std::bit_cast<std::uint32_t>(expected[i]) != std::bit_cast<std::uint32_t>(merge.out()[i]);
  }
  CHECK(different == 0);
}

}  // namespace attention_merge_test
