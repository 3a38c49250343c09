"""Every layout is told by names alone: nobody is in two splits, people and classes are right or it is said, and nothing fine is lost."""

import itertools
import re
from dataclasses import replace

import layouts_fixtures as fixtures
import pytest

from stylegan.data.layouts import recognise
from stylegan.data.subjects import FOUR_CLASSES, count_leaks, split_by_subject

PEOPLE = range(12)
DATES = ("2006-04-18_08_20_30.0", "11.05.2007")
ADNI, OASIS3 = "{i:03d}_S_{n:05d}", "OAS3{i:04d}"
SERIES, T1S = "MPR__GradWarp__B1_Correction__N3__Scaled", "t1,t1ce,t2,flair,seg"
CUT = {"NonDemented": 40, "VeryMildDemented": 28, "MildDemented": 11, "ModerateDemented": 0}  # the published upload's


def tree(pattern: str, classes: str = "", sequences: str = "", visits: int = 2, levels: int = 2) -> dict[str, tuple[int, str]]:
    """{file: (person, class)} of a pattern with {c} class, {i} and {n} numbers of the person, {v} visit, {d} its date, {k} level, {s} sequence."""
    made, names = {}, classes.split(",")
    for i, v, k, s in itertools.product(PEOPLE, range(1, visits + 1), range(levels), sequences.split(",")):
        numbers = {"i": i, "j": i + 1, "n": 10003 + 37 * i, "v": v, "k": 60 + k, "image": 45108 + 10 * i + v}
        words = {"d": DATES[v % 2], "s": s, "c": names[i % len(names)], "split": ("train", "test")[i % 3 == 2]}
        made[pattern.format(**numbers, **words)] = (i, words["c"])
    return made


def read(files, root="/nowhere/brains", **options):
    """The catalogue of these names; Analyze headers have their images."""
    images = [name[:-3] + "img" for name in files if name.endswith("hdr")]
    return recognise(root, ([(name, 1, 1) for name in (*files, *images)], {}), **options)


def check_people(found, files):
    """Each of the twelve people has one name, and nobody shares it."""
    pairs = {(files[item.file][0], item.subject) for item in found.items}
    assert not found.hidden and len(pairs) == len({who for who, _ in pairs}) == len({name for _, name in pairs}) == len(PEOPLE)


# Each kind of tree: pattern, classes, sequences. People are 12, each with two visits.
KNOWN = {
    "ADNI from LONI": (f"ADNI/{ADNI}/{SERIES}/{{d}}/I{{image}}/ADNI_{ADNI}_MR_{SERIES}_Br_20070001135721811_S13408_I{{image}}.nii", "", ""),
    "ADNI by class": (f"{{c}}/{ADNI}/MP-RAGE/{{d}}/I{{image}}/ADNI_{ADNI}_MR_MP-RAGE_br_raw_20060418193538145_1_S13408_I{{image}}.nii", "AD,CN,EMCI", ""),
    "ADNI by Clinica": ("sub-ADNI{i:03d}S{n}/ses-M{v:02d}/anat/sub-ADNI{i:03d}S{n}_ses-M{v:02d}_T1w.nii.gz", "", ""),
    "OASIS-1 of Kaggle": ("Data/{c}/OAS1_{i:04d}_MR{v}_mpr-1_{k}.jpg", "Non Demented,Mild Dementia", ""),
    "OASIS-1 raw repeats": ("disc1/OAS1_{i:04d}_MR1/RAW/OAS1_{i:04d}_MR1_mpr-{v}_anon.hdr", "", ""),
    "OASIS-2": ("OAS2_{i:04d}_MR{v}/RAW/mpr-1.nifti.hdr", "", ""),
    "OASIS-3": (f"sub-{OASIS3}/ses-d{{v}}129/anat/sub-{OASIS3}_ses-d{{v}}129_run-01_T1w.nii.gz", "", ""),
    "OASIS-3 of XNAT": (f"{OASIS3}_MR_d{{v}}129/anat2/NIFTI/sub-{OASIS3}_T1w.nii.gz", "", ""),
    "OASIS-3 of FreeSurfer": (f"{OASIS3}_Freesurfer53_d{{v}}129/mri/{{s}}.mgz", "", "T1,orig,aseg"),
    "BraTS 2021": ("BraTS2021_{n:05d}/BraTS2021_{n:05d}_{s}.nii.gz", "", T1S),
    "BraTS 2023": ("BraTS-GLI-{n}-{v:03d}/BraTS-GLI-{n}-{v:03d}-{s}.nii.gz", "", "t1n,t1c,t2w,t2f,seg"),
    "OpenNeuro": ("ds000001/sub-{j:02d}/ses-{v}/anat/sub-{j:02d}_ses-{v}_{s}.nii.gz", "", "T1w,T2w,FLAIR"),
    "ADHD-200": ("{c}/00{n}/session_{v}/anat_1/mprage.nii.gz", "KKI,NYU", ""),
    "HCP": ("HCP_1200/1{n}/T1w/{s}.nii.gz", "", "T1w_acpc_dc_restore_brain,T1w_acpc_dc_restore,T2w_acpc_dc_restore,aparc+aseg,brainmask_fs"),
    "IXI": ("IXI-{s}/IXI{i:03d}-Guys-08{i:02d}-{s}.nii.gz", "", "T1,T2,PD"),
    "LGG of Kaggle": ("kaggle_3m/TCGA_CS_{i:04d}_1996{j:02d}09/TCGA_CS_{i:04d}_1996{j:02d}09_{k}{s}.tif", "", ",_mask"),
    "MIRIAD": ("miriad_1{j:02d}/miriad_1{j:02d}_AD_M_0{v}_MR_1/miriad_1{j:02d}_AD_M_0{v}_MR_1.nii", "", ""),
    "PPMI": ("PPMI_3{i:03d}_MR_{s}_br_raw_20110511123456789_1_S104950_I{image}.nii", "", "MPRAGE_GRAPPA,Sag_3D_T1"),
    "UK Biobank": ("1000{i:03d}_20252_{v}_0/T1/{s}.nii.gz", "", "T1_brain,T1,T1_unbiased_brain,T1_brain_to_MNI"),
    "nnU-Net": ("imagesTr/BRATS_{i:03d}_000{v}.nii.gz", "", ""),
    "nnU-Net in 2-D": ("imagesTr/brain_{i:02d}_slice_{k:03d}.nii.gz", "", ""),
    "Neurite": ("OASIS_OAS1_{i:04d}_MR1/slice_{s}.nii.gz", "", "norm,orig,seg4,seg24"),
    "words nobody knows": ("archive/data/{c}/s{j:02d}/{k}.png", "lepton,quark", ""),
    "strange visits": ("{s}/P{j:02d}/{k}.png", "", "early,late"),
    "fsl_anat": ("P{j:02d}.anat/{s}.nii.gz", "", "T1,T1_fast_bias,T1_to_MNI_nonlin_jac,T1_to_MNI_lin"),
    "CAT12 alone": ("mri/{s}sub-{j:02d}_T1w.nii", "", "wm,mwp1,p0"),
    "MP2RAGE": ("sub-{j:02d}/anat/sub-{j:02d}_{s}.nii.gz", "", "UNIT1,T1map,inv-1_MP2RAGE,inv-2_part-phase_MP2RAGE"),
    "planes in names": ("{c}/P{j:02d}_{s}_{k}.png", "AD,CN", "axial,coronal"),
    "levels first": ("{c}/0{k}_sub-P{j:02d}.png", "AD,CN", ""),
    "sex and diagnosis": ("{s}/{c}/P{j:02d}_{k}.png", "AD,CN", "male,female"),
    "planes": ("{c}/{s}/P{j:02d}/{k}.png", "AD,CN", "axial,coronal"),
    "a class of each slice": ("patient{j}/{s}/{k}.png", "", "left,right"),
    "repeats in names": ("{c}/NC_{j:02d}_{v}.nii.gz", "label_0,label_1", ""),
    "CycleGAN": ("{split}{c}/P{j:02d}_{k}.png", "A,B", ""),
    "sites": ("site_{v}/{c}/center_{v}/00{n}/{k}.png", "AD,CN", ""),
    "splits and capitals": ("{split}ing Set/{c}/Subject_{j}/T1/Slice_{k:03d}.PNG", "Ad,NC", ""),
    "dates and visits": ("{d}_P{j:02d}_S{v}_{s}_{k}.png", "", "left,second,resized_gray"),
    "numbers and visits": ("{i:04d}_{v}/T1.nii.gz", "", ""),
    "GRAPPA": ("P{j:02d}/t1_mpr_ns_sag_pat2_iso_{v}.nii.gz", "", ""),
    "longitudinal FreeSurfer": ("P{j:02d}_tp{v}.long.P{j:02d}_base/mri/{s}.mgz", "", "T1,orig/001"),
    "spaces, quotes, Unicode": ("{c}_{split}/größe q\"uo'te {j}_слой_slice_{k}.png", "AD,NC", ""),
    "a folder per level": ("{c}/slice_{k}/P{j:02d}.png", "AD,CN", ""),
    "a folder per level, by number": ("{k}/P{j:02d}.png", "", ""),
    "a folder called sub-sampled": ("sub-sampled/{c}/patient{j}_slice_{k}.png", "AD,CN", ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", KNOWN)
def test_people_and_classes_are_told(kind):
    pattern, classes, sequences = KNOWN[kind]
    files = tree(pattern, classes, sequences)
    found = read(files)
    check_people(found, files)
    assert kind == "a class of each slice" or all(item.label == files[item.file][1] for item in found.items)
    splits, _ = split_by_subject([item.subject for item in found.items], [0] * len(found.items))
    assert count_leaks([str(files[item.file][0]) for item in found.items], splits) == 0
    other = r"[-_/](seg\d*|mask|brainmask_fs|aseg|t1ce|t1c|t2w?|flair|to_mni|unbiased_brain|bias|jac|t1map|mp2rage|coronal)[._]|orig/001|/(mwp1|p0)sub"
    assert not [item.file for item in found.items if re.search(other, item.file, re.I)]


WHO = ("sub-{j:02d}", "P{j:03d}", "00{n}", ADNI, OASIS3, "OAS2_{i:04d}", "BraTS2021_{n}")


@pytest.mark.parametrize("person", WHO)
def test_nobody_is_in_two_splits_whatever_the_names(person):
    visits = " _MR{v} _ses-{v} _visit{v} _{d} _run-{v}_T1w _I{image} /ses-{v} /{d}/I{image} /scan{v}".split(" ")
    endings = ("/{k}.png", "/slice_{k}.jpg", "_slice_{k}.png", "/t1.nii.gz", "_T1w.nii", ".mgz")
    for number, (visit, ending) in enumerate(itertools.product(visits, endings), WHO.index(person)):
        classes = ("", "lepton,quark")[number % 2]  # any two of person, visit, ending and classes meet
        if ending.startswith("/") or not visit.startswith("/"):  # else the name tells nothing and repeats in every folder
            files = tree(("{c}/" if classes else "") + person + visit + ending, classes)
            found = read(files)
            check_people(found, files)
            assert {item.label for item in found.items} == set(classes.split(",")), visit + ending


UNKNOWN = {  # kinds that do not say who is who: pattern, classes, what surely belongs together
    "pictures": ("img_{i}_{v}{k}.jpg", "", ""),
    "tumours of Kaggle": ("{split}ing/{c}/Tr-{c:.2}_00{i:02d}{v}.jpg", "glioma,notumor", ""),
    "UQ ADNI": ("AD_NC/{split}/{c}/{image}_{k}.jpeg", "AD,NC", "{image}"),
    "image ids": ("{c}/I{image}/1.2.840.113619.2.{v}/{k}.png", "AD,CN", "{c}/I{image}"),
    "numbered scans": ("scan_{i:02d}{v}.nii.gz", "", ""),
    "dcm2niix": ("OUT/ADNI_MP-RAGE_200{v}04{j:02d}082030_{v}.nii.gz", "", ""),
    "class and image": ("{c}/{c}_I{image}_slice_{k}.png", "AD,CN", "{image}"),
    "hashes": ("{i:08d}-4e5f-4a5b-8c9d-{v:06d}{k:06d}.png", "", ""),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_where_people_cannot_be_told_it_is_said(kind):
    pattern, classes, together = UNKNOWN[kind]
    files = tree(pattern, classes)
    found = read(files)
    assert "held-out scores may be too good" in found.hidden
    assert {item.label for item in found.items} == (set(classes.split(",")) if classes else {""})
    assert len({item.subject for item in found.items}) == len(tree(together, classes) if together else files)


SMALL = {  # what is special: files, (people, None where they are hidden), classes, published splits
    "copies of slices": ([f"P{p:02d}_slice_{k}{copy}.png" for p in range(12) for k in (1, 2)
                          for copy in ("", "_aug_0", "_flip", "_hflip", "_rot90", "_rotated", "_copy", "_noise", "_flipLR", "_0_1234", "(1)")], 12, ""),
    "ratings": ([f"{c}/P{p:02d}{n}_{k}.png" for n, c in enumerate(("0.0", "0.5", "1.0")) for p in range(4) for k in (1, 2)], 12, "0.0 0.5 1.0"),
    "years": ([f"{year}/P{p:02d}/60.png" for year in range(2017, 2021) for p in range(12)], 12, ""),
    "BraTS 2020": ([f"BraTS2020_{s}Data/MICCAI_BraTS2020_{s}Data/BraTS20_{s}_{i:03d}/BraTS20_{s}_{i:03d}_t1.nii" for s in ("Training", "Validation")
                    for i in range(12)], 24, "", "train val"),
    "capitals": ([f"{a}atient_{p:02d}_slice_{k}.png" for p in range(6) for k, a in enumerate("Pp")], 6, ""),
    "subsets": ([f"subset{s}/P{s}{p}_slice_1.png" for s in range(4) for p in range(6)], 24, ""),
    "counters": ([f"{c}/brain-MRI-{i:04d}.png" for c in ("AD", "CN") for i in range(20)], None, "AD CN"),
    "shards": ([f"0000{i % 2}/img{i:08d}.png" for i in range(20)], None, ""),
    "numbered classes": ([f"{s}/{c}/{i}.png" for s in ("train", "test") for c in range(4) for i in range(9)], None, "0 1 2 3", "train test"),
    "folds": ([f"fold_{n}/{'test' if p % 3 == n else 'train'}/{'AC'[p % 2]}/P{p:02d}_1.png" for n in range(3) for p in range(12)], 12, "A C", "train test"),
    "twelve folders": (tree("{j}/slice_{k}.png"), 12, ""),
    "few folders": ([f"{p}/slice_{k}.png" for p in range(1, 7) for k in (60, 61)], 6, ""),
    "people numbered anew": ([f"{c}/patient_{i:02d}/{k}.png" for c in ("AD", "CN") for i in range(8) for k in range(3)], 16, "AD CN"),
    "a class called test": ([f"{c}/OAS1_{n}00{i}_MR1_slice_1.png" for n, c in enumerate(("test", "control")) for i in range(4)], 8, "test control"),
    "cases by class": ([f"{c}/case_{i:03d}_slice_{k}.png" for c in ("AD", "CN") for i in range(8) for k in range(3)], 16, "AD CN"),
    "cases by split": ([f"{c}/case_{n}{i}_slice_0.png" for n, c in enumerate(("train", "val", "test")) for i in range(8)], 24, "", "train val test"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SMALL)
def test_classes_people_splits_and_mere_storage_are_told_apart(kind):
    files, people, classes, *splits = SMALL[kind]
    found = read(files)
    assert (None if found.hidden else len({item.subject for item in found.items})) == people
    assert {item.label for item in found.items} == set(classes.split(" "))
    assert {item.folder for item in found.items} == set(" ".join(splits).split(" "))


def test_contrasts_are_left_out_by_name_unless_asked_for():
    files = tree("sub-{j:02d}/anat/sub-{j:02d}_{s}.nii.gz", "", "T1w,T2w,FLAIR")
    assert {reason: len(names) for reason, names in read(files).left_out.items()} == {"contrast T2": 12, "contrast FLAIR": 12}
    assert all("FLAIR" in item.file for item in read(files, contrast="flair").items)
    with pytest.raises(ValueError, match=r"contrast is 'PD'.*there are FLAIR, T1, T2"):
        read(files, contrast="PD")
    only = read(tree("sub-{j:02d}_{s}.nii.gz", "", "T2w,gtv,wmh"))
    assert len(only.items) == 12 and "contrast T2 is used" in only.warnings[0]
    counted = [f"Training/{name}/Tr-{name[:2]}_000{k}.jpg" for name in ("glioma", "notumor") for k in range(8)]
    assert len(read(counted).items) == 16  # numbers of pictures are no contrasts
    spm = read([f"{s}sub-{i:02d}_T1w.nii" for i in range(4) for s in ("", "c1", "mwc2", "m", "wm", "y_", "mri/p0", "mri/mwp1")])
    assert len(spm.items) == 4 and len(spm.left_out["written by SPM"]) == 28
    ill = [f"{c}/{c}_{i:03d}_{k}.png" for c in ("HC", "PD") for i in range(8) for k in range(3)]
    assert {item.label for item in read(ill).items} == {"HC", "PD"}  # Parkinson's disease, not proton density
    assert set(read([*ill, "T2/x_T2.png"]).left_out) >= {"contrast PD"}


def test_a_stray_volume_among_pictures_and_previews_beside_volumes_are_left_out():
    templates = tuple(f"{folder}/MNI152_T1_1mm.nii.gz" for folder in "abcdefgh")
    assert not read([*(f"mri/img_{i}.jpg" for i in range(60)), *templates[:1], "mri/x.nii"]).volumes
    assert "template" in read([*(f"P{i:02d}/mri/brain.mgz" for i in range(6)), "fsaverage/mri/brain.mgz"]).left_out
    assert len(read(["a/P1_slice_1.jpg", "Ground Truth/P1_slice_1.jpg"]).items) == 1
    assert read([*templates, *(f"sub-{i:02d}_T1w.nii.gz" for i in range(4))]).left_out == {"template": templates}  # in order
    heads = tree("OAS1_{i:04d}_MR1/t88_{s}.nii", "", "gfc") | tree("OAS1_{i:04d}_MR1/view_{k}.gif", levels=5)
    assert read(heads).volumes and len(read(heads).items) == 12


def test_levels_choose_and_names_that_do_not_fit_are_counted():
    files = [*tree("{c}/s{j:02d}_slice_{k}.png", "AD,CN", levels=5), "logo.png"]
    assert read(files).left_out == {"name does not fit the layout": ("logo.png",)}
    found = read(files, levels=(61, 62))
    assert {item.level for item in found.items} == {61, 62} and len(found.left_out["outside levels 61-62"]) == 3 * 12 + 1


@pytest.mark.parametrize("prefix", ["", "keras_png_slices_data/keras_png_slices_data/"])
def test_uq_oasis_also_nested_and_one_folder_of_it(tmp_path, prefix):
    truth = {prefix + name: replace(item, file=prefix + name) for name, item in fixtures.uq_oasis(tmp_path / prefix).items()}
    catalogue = recognise(tmp_path)
    assert catalogue.layout == "uq-oasis" and not catalogue.hidden
    assert {item.file: replace(item, scan="") for item in catalogue.items} == truth
    assert len(catalogue.left_out["label map"]) == len(truth)  # one seg_* beside each case_*, none of them used
    assert len(recognise(tmp_path / prefix / "keras_png_slices_test").items) == 6
    with pytest.raises(ValueError, match=r"No slice was found.*6 label map"):
        recognise(tmp_path / prefix / "keras_png_slices_seg_test")


def test_four_class_subjects_are_recovered_from_the_numbering_and_where_files_are_missing_as_many_as_can_be():
    """The published upload's numbers: 5,121 train and 1,279 test files of 100 + 70 + 28 + 2 subjects."""
    truth = fixtures.four_class_names(FOUR_CLASSES, CUT)
    assert [sum(item.folder == folder for item in truth.values()) for folder in ("train", "test")] == [5121, 1279]
    catalogue = read(truth)
    assert catalogue.layout == "four-class" and not catalogue.hidden
    assert {item.file: item for item in catalogue.items} == truth
    for number in (3, 716):
        del truth[f"train/MildDemented/mildDem{number}.jpg"]
    catalogue = read(truth)
    assert "not all subjects could be recovered" in catalogue.hidden
    sure = {item.file for item in catalogue.items if item.told}
    lowest = {name for name, item in truth.items() if "/mildDem" in name and item.level == 25}
    assert truth.keys() - sure == lowest  # not guessed
    assert all(item.subject == truth[item.file].subject for item in catalogue.items if item.told)


def test_links_are_followed_under_their_own_names_once(tmp_path):
    """What people see of a DataLad set are links into .git/annex, which itself is hidden."""
    (tmp_path / "bids").mkdir()
    (tmp_path / "bids/all").symlink_to(tmp_path / "elsewhere")
    target, link = tmp_path / "bids/.git/annex/objects/MD5E-s1.nii.gz", tmp_path / "elsewhere/sub-01/anat/sub-01_T1w.nii.gz"
    for path in (target, link):
        path.parent.mkdir(parents=True)
    target.write_bytes(b"x")
    link.symlink_to(target)
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/self").symlink_to(tmp_path / "elsewhere/self")
    (tmp_path / "elsewhere/void").mkdir()
    catalogue = recognise(tmp_path / "bids")
    assert [item.subject for item in catalogue.items] == ["sub-01"]
    assert catalogue.left_out == {"unreadable": ("all/self",), "empty folder": ("all/void",)}
