// The innermost loop: sums of products of some rows with some panels.

#pragma once

#include <cstdint>

#include "factors.h"

// Adds to each row's sums the products of one number of it, or kTogether, with those of all panels.
// Numbers of rows lie `row_size` apart, panels `panel_size`. It has to be inlined, so that the sums
// stay in registers.
template <class Products, int kRowsOfSums, int kPanels>
[[gnu::always_inline]] inline void add_products(
    typename Products::Sum (&sums)[kRowsOfSums][kPanels][Products::kVectors],
    const typename Products::Factor* rows, int64_t row_size,
    const typename Products::Factor* panels, int64_t panel_size) {
  constexpr int kVectors = Products::kVectors;
  typename Products::Factors many[kPanels][kVectors];
#pragma GCC unroll 8
  for (int panel = 0; panel < kPanels; ++panel)
#pragma GCC unroll 8
    for (int vector = 0; vector < kVectors; ++vector)
      many[panel][vector] =
          Products::load(panels + panel * panel_size + vector * Products::kPanel / kVectors * Products::kTogether);
#pragma GCC unroll 16
  for (int row = 0; row < kRowsOfSums; ++row) {
    const auto one = Products::repeat(rows + row * row_size);
#pragma GCC unroll 8
    for (int panel = 0; panel < kPanels; ++panel)
#pragma GCC unroll 8
      for (int vector = 0; vector < kVectors; ++vector)
        sums[row][panel][vector] =
            Products::multiply_add(sums[row][panel][vector], one, many[panel][vector]);
  }
}
