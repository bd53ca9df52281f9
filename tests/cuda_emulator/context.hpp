// Switches between the stacks of fibers. ucontext is portable, but makes a system call for the
// signal mask at every switch, which takes most of an emulated kernel's time; on x86-64 the switch
// is hand-written, by the System V calling convention.
#pragma once

#include <cstddef>

#if defined(__x86_64__)

#include <cstdint>

namespace cuda_emulator {

// Saves callee-saved registers and the stack pointer, and returns on the other stack.
[[gnu::naked, gnu::noinline]] inline void switch_stacks(void** /*leave*/, void* /*enter*/) {
    asm("pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15;"
        "movq %rsp, (%rdi); movq %rsi, %rsp;"
        "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}

class Context {
  public:
    // The first switch to this context starts `entry`, which never returns.
    void begin(char* stack, std::size_t n, void (*entry)()) {
        const auto top = reinterpret_cast<std::uintptr_t>(stack + n) & ~std::uintptr_t{15};
        auto** const at = reinterpret_cast<void**>(top) - 8;  // entry has no caller: at[7] is null
        for (int i = 0; i < 6; ++i) at[i] = nullptr;          // registers
        at[6] = reinterpret_cast<void*>(entry);
        at[7] = nullptr;
        stack_pointer_ = at;
    }

    void go_to(Context& other) { switch_stacks(&stack_pointer_, other.stack_pointer_); }

  private:
    void* stack_pointer_ = nullptr;
};

}  // namespace cuda_emulator

#else

#include <ucontext.h>

namespace cuda_emulator {

class Context {
  public:
    void begin(char* stack, std::size_t n, void (*entry)()) {
        getcontext(&context_);
        context_.uc_stack = {stack, 0, n};
        context_.uc_link = nullptr;
        makecontext(&context_, entry, 0);
    }

    void go_to(Context& other) { swapcontext(&context_, &other.context_); }

  private:
    ucontext_t context_;
};

}  // namespace cuda_emulator

#endif
