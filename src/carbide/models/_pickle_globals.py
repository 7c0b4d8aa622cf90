"""The exact names that pickles of ordinary scikit-learn models ask for; any other name makes a file refused.

``CLASSES`` may be instantiated without arguments and given attributes; ``FUNCTIONS`` may be called with arguments that
the scanner checks one by one; ``NAMES`` may be mentioned (as the class to be made, as a parameter) and not called.
"""

from __future__ import annotations

_SKLEARN = {
    "_loss.link": ("HalfLogitLink", "IdentityLink", "Interval", "LogLink", "LogitLink", "MultinomialLogit"),
    "_loss.loss": ("ExponentialLoss", "HalfBinomialLoss", "HalfMultinomialLoss", "HalfSquaredError"),
    "calibration": ("CalibratedClassifierCV", "_CalibratedClassifier", "_SigmoidCalibration", "_TemperatureScaling"),
    "compose._column_transformer": ("ColumnTransformer", "_RemainderColsList"),
    "decomposition._pca": ("PCA",),
    "decomposition._truncated_svd": ("TruncatedSVD",),
    "discriminant_analysis": ("LinearDiscriminantAnalysis", "QuadraticDiscriminantAnalysis"),
    "dummy": ("DummyClassifier",),
    "ensemble._bagging": ("BaggingClassifier",),
    "ensemble._forest": ("ExtraTreesClassifier", "RandomForestClassifier"),
    "ensemble._gb": ("GradientBoostingClassifier",),
    "ensemble._hist_gradient_boosting.binning": ("_BinMapper",),
    "ensemble._hist_gradient_boosting.gradient_boosting": ("HistGradientBoostingClassifier",),
    "ensemble._hist_gradient_boosting.predictor": ("TreePredictor",),
    "ensemble._stacking": ("StackingClassifier",),
    "ensemble._voting": ("VotingClassifier",),
    "ensemble._weight_boosting": ("AdaBoostClassifier",),
    "feature_selection._univariate_selection": ("SelectKBest", "SelectPercentile"),
    "feature_selection._variance_threshold": ("VarianceThreshold",),
    "impute._base": ("MissingIndicator", "SimpleImputer"),
    "isotonic": ("IsotonicRegression",),
    "linear_model._logistic": ("LogisticRegression", "LogisticRegressionCV"),
    "linear_model._perceptron": ("Perceptron",),
    "linear_model._ridge": ("RidgeClassifier",),
    "linear_model._stochastic_gradient": ("SGDClassifier",),
    "naive_bayes": ("BernoulliNB", "CategoricalNB", "ComplementNB", "GaussianNB", "MultinomialNB"),
    "neural_network._multilayer_perceptron": ("MLPClassifier",),
    "neural_network._stochastic_optimizers": ("AdamOptimizer", "SGDOptimizer"),
    "pipeline": ("FeatureUnion", "Pipeline"),
    "preprocessing._data": (
        "MaxAbsScaler",
        "MinMaxScaler",
        "Normalizer",
        "PowerTransformer",
        "QuantileTransformer",
        "RobustScaler",
        "StandardScaler",
    ),
    "preprocessing._discretization": ("KBinsDiscretizer",),
    "preprocessing._encoders": ("OneHotEncoder", "OrdinalEncoder"),
    "preprocessing._label": ("LabelBinarizer", "LabelEncoder"),
    "preprocessing._polynomial": ("PolynomialFeatures", "SplineTransformer"),
    "svm._classes": ("LinearSVC", "NuSVC", "SVC"),
    "tree._classes": ("DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor"),
    "utils._bunch": ("Bunch",),
}
CLASSES = frozenset((f"sklearn.{module}", name) for module, names in _SKLEARN.items() for name in names)

ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")
NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
LOSSES = ("CyExponentialLoss", "CyHalfBinomialLoss", "CyHalfMultinomialLoss", "CyHalfSquaredError")
BIT_GENERATORS = frozenset({("numpy.random._mt19937", "MT19937"), ("numpy.random._pcg64", "PCG64")})

# name -> which check of the scanner its arguments must pass
FUNCTIONS: dict[tuple[str, str], str] = {
    **{(module, "_reconstruct"): "empty_array" for module in ARRAYS},
    **{(module, "scalar"): "scalar" for module in ARRAYS},
    **{(module, "_frombuffer"): "buffer" for module in NUMERIC},
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("__builtin__", "bytes"): "no_bytes",
    ("builtins", "bytes"): "no_bytes",
    ("collections", "OrderedDict"): "ordered",
    ("sklearn.tree._tree", "Tree"): "tree",
    **{("sklearn._loss._loss", name): "loss" for name in LOSSES},
    **{("sklearn._loss._loss", f"__pyx_unpickle_{name}"): "cython" for name in LOSSES},
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): "cython",
    ("numpy.random._pickle", "__bit_generator_ctor"): "bit_generator",
    ("numpy.random._pickle", "__randomstate_ctor"): "random",
    ("numpy.random._pickle", "__generator_ctor"): "random",
}
NAMES = frozenset({("numpy", "ndarray"), ("numpy", "float64"),
                   ("numpy", "float32"), ("numpy", "int64"), ("numpy.random.bit_generator", "SeedSequence"),
                   ("sklearn.feature_selection._univariate_selection", "f_classif"), ("sklearn.feature_selection._univariate_selection", "chi2"),
                   *BIT_GENERATORS})  # fmt: skip
WRAPPER = ("joblib.numpy_pickle", "NumpyArrayWrapper")
ALLOWED = CLASSES | frozenset(FUNCTIONS) | NAMES | {WRAPPER}
