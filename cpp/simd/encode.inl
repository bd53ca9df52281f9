// RoPE and PRoPE, applied to a tile of tokens in all heads.

// Prefetch distance in bytes: two pages, beyond the reach of the hardware prefetcher.
constexpr std::size_t kAhead = 8192;

// Calls visit(token, x, out) for the rows of a tile, in memory order.
template <class T, class Visit>
MOSAICMEM_INLINE void for_each_row(const HeadFeatures<T>& f, std::size_t first, std::size_t last,
                                   const Visit& visit) {
    const bool heads_inside = f.x_strides.head < f.x_strides.token;
    const std::size_t tokens = last - first;
    const std::size_t outer = heads_inside ? tokens : f.heads;
    const std::size_t inner = heads_inside ? f.heads : tokens;
    const std::size_t token_step = heads_inside ? 0 : 1;
    const std::size_t x_step = heads_inside ? f.x_strides.head : f.x_strides.token;
    const std::size_t out_step = heads_inside ? f.out_strides.head : f.out_strides.token;
    for (std::size_t i = 0; i < f.batch * outer; ++i) {
        const std::size_t b = i / outer, h = heads_inside ? 0 : i % outer;
        std::size_t t = first + (heads_inside ? i % outer : 0);
        const T* x = f.x + b * f.x_strides.batch + h * f.x_strides.head + t * f.x_strides.token;
        T* out = f.out + b * f.out_strides.batch + h * f.out_strides.head + t * f.out_strides.token;
        for (std::size_t k = 0; k < inner; ++k) {
            const char* ahead = reinterpret_cast<const char*>(x) + kAhead;
            for (std::size_t at = 0; at < f.dim * sizeof(T); at += 64) {
                __builtin_prefetch(ahead + at);
            }
            visit(t, x, out);
            t += token_step;
            x += x_step;
            out += out_step;
        }
    }
}

// Part of a row, n <= kLanes features, as a zero-padded vector.
template <class T>
MOSAICMEM_INLINE Vector load_part(const T* from, std::size_t n) {
    T part[kLanes] = {};
    __builtin_memcpy(part, from, n * sizeof(T));
    return load(part);
}

template <class T>
MOSAICMEM_INLINE void store_part(Vector v, T* to, std::size_t n) {
    T part[kLanes];
    store(v, part);
    __builtin_memcpy(to, part, n * sizeof(T));
}

// Lane l of the result is lane Source::of(l) of x.
template <class Source, int... kLane>
MOSAICMEM_INLINE Vector permute(Vector x, std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
    return __builtin_shufflevector(x, x, Source::of(kLane)...);
#else
    return __builtin_shuffle(x, Integers{Source::of(kLane)...});
#endif
}

template <class Source>
MOSAICMEM_INLINE Vector permute(Vector x) {
    return permute<Source>(x, std::make_integer_sequence<int, kLanes>());
}

// The lane of the other feature of a pair, kDistance apart.
template <int kDistance>
struct Partner {
    static constexpr int of(int lane) { return lane ^ kDistance; }
};

template <int kSpread, int kComponent>
struct Component {
    static constexpr int of(int lane) {
        return lane / (4 * kSpread) * (4 * kSpread) + kComponent * kSpread + lane % kSpread;
    }
};

// One vector of angles serves two vectors of features: the angle's lane for each feature of the
// first (kSecond 0) or the second (1).
template <int kDistance, int kSecond>
struct AngleOf {
    static constexpr int of(int lane) {
        return kSecond * kLanes / 2 + lane / (2 * kDistance) * kDistance + lane % kDistance;
    }
};

// -1 for the first feature of a pair, +1 for the second.
template <int kDistance, int... kLane>
MOSAICMEM_INLINE Vector signs(std::integer_sequence<int, kLane...>) {
    return Vector{(kLane / kDistance % 2 == 0 ? -1.0f : 1.0f)...};
}

template <int kDistance, int kSecond>
MOSAICMEM_INLINE Vector rotate(Vector v, Vector cos, Vector sin) {
    using Angle = AngleOf<kDistance, kSecond>;
    const Vector sign = signs<kDistance>(std::make_integer_sequence<int, kLanes>());
    return v * permute<Angle>(cos) + permute<Partner<kDistance>>(v) * (permute<Angle>(sin) * sign);
}

// Rotates pairs that lie within a vector, kDistance apart.
template <int kDistance, bool kStream, class T>
MOSAICMEM_INLINE void rotate_within(const T* x, std::size_t n, const float* cos, const float* sin,
                                    float sign, T* out) {
    std::size_t d = 0;
    for (; d + 2 * kLanes <= n; d += 2 * kLanes) {
        const Vector c = load(cos + d / 2), s = load(sin + d / 2) * sign;
        write<kStream>(rotate<kDistance, 0>(load(x + d), c, s), out + d);
        write<kStream>(rotate<kDistance, 1>(load(x + d + kLanes), c, s), out + d + kLanes);
    }
    if (d == n) return;
    const Vector c = load_part(cos + d / 2, (n - d) / 2);
    const Vector s = load_part(sin + d / 2, (n - d) / 2) * sign;
    const std::size_t low = n - d < kLanes ? n - d : kLanes, high = n - d - low;
    store_part(rotate<kDistance, 0>(load_part(x + d, low), c, s), out + d, low);
    store_part(rotate<kDistance, 1>(load_part(x + d + low, high), c, s), out + d + low, high);
}

// Rotates pairs (a, b) = (x[i], x[n + i]) to (a cos - b sin, b cos + a sin).
template <bool kStream, class T>
MOSAICMEM_INLINE void rotate_halves(const T* x, std::size_t n, const float* cos, const float* sin,
                                    float sign, T* out) {
    std::size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const Vector a = load(x + i), b = load(x + n + i), c = load(cos + i);
        const Vector s = load(sin + i) * sign;
        write<kStream>(a * c - b * s, out + i);
        write<kStream>(b * c + a * s, out + n + i);
    }
    if (i < n) {
        const std::size_t rest = n - i;
        const Vector a = load_part(x + i, rest), b = load_part(x + n + i, rest);
        const Vector c = load_part(cos + i, rest), s = load_part(sin + i, rest) * sign;
        store_part(a * c - b * s, out + i, rest);
        store_part(b * c + a * s, out + n + i, rest);
    }
}

template <bool kStream, class T>
MOSAICMEM_INLINE void apply_rope(const HeadFeatures<T>& f, const RotaryTask& task) {
    const std::size_t dim = f.dim, half = dim / 2;
    const float sign = task.inverse ? -1.0f : 1.0f;
    if (task.interleaved) {
        for_each_row(f, task.first, task.last,
                     [&](std::size_t t, const T* x, T* out) MOSAICMEM_LAMBDA {
                         rotate_within<1, kStream>(x, dim, task.cos + t * half, task.sin + t * half,
                                                   sign, out);
                     });
    } else {
        for_each_row(f, task.first, task.last,
                     [&](std::size_t t, const T* x, T* out) MOSAICMEM_LAMBDA {
                         rotate_halves<kStream>(x, half, task.cos + t * half, task.sin + t * half,
                                                sign, out);
                     });
    }
}

template <int kSpread>
MOSAICMEM_INLINE Vector combine(Vector x, const float* coefficient, std::size_t period) {
    return permute<Component<kSpread, 0>>(x) * load(coefficient) +
           permute<Component<kSpread, 1>>(x) * load(coefficient + period) +
           permute<Component<kSpread, 2>>(x) * load(coefficient + 2 * period) +
           permute<Component<kSpread, 3>>(x) * load(coefficient + 3 * period);
}

// Multiplies four-vectors that lie within one SIMD vector.
template <int kSpread, bool kStream, class T>
MOSAICMEM_INLINE void multiply_within(const T* x, std::size_t n, const float* coefficient,
                                      std::size_t period, T* out) {
    std::size_t d = 0, phase = 0;
    for (; d + kLanes <= n; d += kLanes) {
        write<kStream>(combine<kSpread>(load(x + d), coefficient + phase, period), out + d);
        phase = phase + kLanes == period ? 0 : phase + kLanes;
    }
    if (d == n) return;
    const Vector v = load_part(x + d, n - d);
    store_part(combine<kSpread>(v, coefficient + phase, period), out + d, n - d);
}

MOSAICMEM_INLINE float number(float x) { return x; }
MOSAICMEM_INLINE float number(std::uint16_t x) {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(x) << 16);
}

// Multiplies four-vectors of any spread, scalar by scalar, straight from the definition.
template <class T>
MOSAICMEM_INLINE void multiply_far(const T* x, std::size_t n, const float* coefficient,
                                   std::size_t period, std::size_t spread, T* out) {
    for (std::size_t block = 0; block < n; block += 4 * spread) {
        for (std::size_t r = 0; r < spread; ++r) {
            float v[4];
            for (std::size_t j = 0; j < 4; ++j) v[j] = number(x[block + j * spread + r]);
            for (std::size_t i = 0; i < 4; ++i) {
                const std::size_t e = block + i * spread + r;
                float sum = 0.0f;
                for (std::size_t j = 0; j < 4; ++j) {
                    sum += coefficient[j * period + e % period] * v[j];
                }
                store_part(splat(sum), out + e, 1);
            }
        }
    }
}

template <bool kStream, class T>
MOSAICMEM_INLINE void copy_features(const T* x, std::size_t n, T* out) {
    std::size_t d = 0;
    for (; d + kLanes <= n; d += kLanes) write<kStream>(load(x + d), out + d);
    if (d < n) __builtin_memcpy(out + d, x + d, (n - d) * sizeof(T));
}

// kSpread 0: any spread, as the matrices say. kPair: rotated pairs lie within a vector at that
// distance; 0: they do not. `rest` is the first feature that no matrix touches.
template <int kSpread, int kPair, bool kStream, class T>
MOSAICMEM_INLINE void encode_rows(const HeadFeatures<T>& f, const CameraTask& task,
                                  std::size_t rest) {
    const CameraMatrices<float>& m = task.matrices;
    const QuarterRotation<float>& turn = task.rotation;
    const std::size_t dim = f.dim, quarter = dim / 4;
    // PRoPE rotates pairs by the opposite angle of Warped RoPE.
    const float sign = turn.inverse ? 1.0f : -1.0f;
    for_each_row(f, task.first, task.last, [&](std::size_t t, const T* x, T* out) MOSAICMEM_LAMBDA {
        const float* own =
            m.coefficient + static_cast<std::size_t>(m.camera[t]) * m.groups * 4 * m.period;
        for (const MatrixRun& run : m.runs) {
            const float* c = own + run.group * 4 * m.period;
            const std::size_t n = run.end - run.begin;
            if constexpr (kSpread != 0) {
                multiply_within<kSpread, kStream>(x + run.begin, n, c, m.period, out + run.begin);
            } else {
                multiply_far(x + run.begin, n, c, m.period, m.spread, out + run.begin);
            }
        }
        if constexpr (kPair != 0) {
            rotate_within<kPair, kStream>(x + rest, dim - rest, turn.cos + t * quarter,
                                          turn.sin + t * quarter, sign, out + rest);
        } else if (turn.cos) {
            for (std::size_t axis = 0; axis < 2; ++axis) {
                const std::size_t at = rest + axis * quarter;
                const std::size_t angle = t * quarter + axis * quarter / 2;
                rotate_halves<kStream>(x + at, quarter / 2, turn.cos + angle, turn.sin + angle,
                                       sign, out + at);
            }
        } else if (out != x) {
            copy_features<kStream>(x + rest, dim - rest, out + rest);
        }
    });
}

template <bool kStream, class T>
MOSAICMEM_INLINE void apply_prope(const HeadFeatures<T>& f, const CameraTask& task) {
    const std::size_t spread = task.matrices.spread;
    const std::size_t rest = task.matrices.runs.empty() ? 0 : task.matrices.runs.back().end;
    const std::size_t pair = task.rotation.cos ? f.dim / 8 : 0;
    if (spread == 1 && pair == 8 && kLanes == 16) {
        encode_rows<1, kLanes == 16 ? 8 : 0, kStream>(f, task, rest);
    } else if (spread == 1 && pair == 4 && kLanes >= 8) {
        encode_rows<1, kLanes >= 8 ? 4 : 0, kStream>(f, task, rest);
    } else if (spread == 1) {
        encode_rows<1, 0, kStream>(f, task, rest);
    } else if (spread == 2 && kLanes >= 8) {
        encode_rows<kLanes >= 8 ? 2 : 0, 0, kStream>(f, task, rest);
    } else if (spread == 4 && kLanes >= 16) {
        encode_rows<kLanes >= 16 ? 4 : 0, 0, kStream>(f, task, rest);
    } else {
        encode_rows<0, 0, kStream>(f, task, rest);
    }
}
