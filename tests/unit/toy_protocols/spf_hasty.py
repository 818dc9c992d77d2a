"""A protocol that trusts: what it saw of a VMA is what the VMA is, for ever.

It stands for one that somebody adds: this file is all there is of it.
"""

from spfreplay.mutations.patch import EQUIV, Patch, instead
from spfreplay.protocols import Definition

TRUST = Patch(
    "fix-trust",
    "vma_has_changed() never says so",
    EQUIV,
    (
        instead(
            "spf_lock",
            "vma_has_changed",
            '''
            def vma_has_changed(vmf: VmFault) -> Steps[bool]:
                """Trust the VMA.

                Models: nothing that anybody has posted
                """
                yield READ, vmf.vma, VM_RB
                linked = vmf.vma.vm_rb_linked
                return not trusted(linked)


            def trusted(linked: bool) -> bool:
                return linked or True
            ''',
        ),
    ),
)

PROTOCOL = Definition("spf-hasty", "never looks twice", (TRUST,), answers="spf-v11")
